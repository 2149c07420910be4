"""The matrix: every combination of the axes as a cell, or as one left out with its reason, before anything loads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from accel.core.bench.cells import Cell, Skipped
from accel.core.errors import AccelError, InputError
from accel.core.types import PRECISIONS, Device, Model, PlatformReport, Recipe, Weights

#: bytes of one weight; a model on disk holds at most four per weight
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Axes:
    """What the user asked to be measured.

    Attributes:
        hw: as `--hw` takes it. engines: empty for every engine that is installed, save those that wait to be named.
        tasks: empty for each model's own. lengths: None for the task's own example.
        extra: cells beside the matrix, as dictionaries that override the axes with one value each.
        exclude: what is not to be measured, as dictionaries; a cell that matches every entry of one is left out.
    """

    models: tuple[str, ...]
    hw: str = "auto"
    engines: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    batches: tuple[int, ...] = (1,)
    lengths: tuple[int | None, ...] = (None,)
    threads: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] = ()
    weights: Weights = "pretrained"
    extra: tuple[dict[str, Any], ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()


@dataclass
class Matrix:
    """The cells to measure, in order, and those left out."""

    cells: list[Cell] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    models: dict[tuple[str, str], Model] = field(default_factory=dict)
    benchmarks: dict[str, Model] = field(default_factory=dict)

    def model(self, cell: Cell) -> Model:
        """The resolved model of a cell; for a user's own benchmark what stands in its place."""
        return self.benchmarks[cell.benchmark] if cell.benchmark else self.models[(cell.model, cell.task)]


class World:
    """What is known of this machine and its models, each looked up once. Nothing is loaded.

    Args:
        resolve: from a name and a task ("" for the model's own) to a model.
        reports: of the platforms; None scans those that are asked for.
    """

    def __init__(self, resolve: Callable[[str, str], Model], reports: Sequence[PlatformReport] | None = None) -> None:
        self._resolve = resolve
        self._reports = None if reports is None else {report.name: report for report in reports}
        self._models: dict[tuple[str, str], Model | AccelError] = {}
        self._sizes: dict[str, int] = {}

    def model(self, name: str, task: str) -> Model | AccelError:
        """The model, or why there is none."""
        key = (name, task)
        if key not in self._models:
            try:
                self._models[key] = self._resolve(name, task)
            except AccelError as error:
                self._models[key] = error
        return self._models[key]

    def first_error(self) -> AccelError | None:
        """Why the first model that could not be found was not, or None where all were."""
        return next((found for found in self._models.values() if isinstance(found, AccelError)), None)

    def remember(self, name: str, task: str, model: Model) -> None:
        """The model under the task that it turned out to have."""
        self._models.setdefault((name, task), model)

    def devices(self, hw: str) -> list[Device | Skipped]:
        """The devices that `--hw` means; for each that is not here why.

        Raises:
            InputError: `hw` cannot be read.
        """
        from accel.core.devices import absent, find_devices, parse_hw
        from accel.core.hardware import scan

        selection = parse_hw(hw)
        if self._reports is None:
            self._reports = {}
        missing = [name for name in selection.platforms if name not in self._reports]
        if missing:
            self._reports.update({report.name: report for report in scan(missing)})
        reports = list(self._reports.values())
        if not selection.named:
            return list(find_devices(selection, reports=reports))
        found: dict[str, Device | Skipped] = {}
        for target in selection.targets:
            fits = [device for device in self._reports[target.platform].devices if target.fits(device.id)]
            for device in fits:
                found[device.id] = device
            if not fits:
                why = absent(target, self._reports[target.platform])
                found[str(target)] = Skipped(Cell("", "", target.platform, str(target), "", ""), why.message, why.hint)
        return list(found.values())

    def weights_bytes(self, model: Model) -> int:
        """Bytes of the model's files."""
        if model.digest not in self._sizes:
            folder = model.folder
            files = [] if folder is None else [folder / name for name in model.files]
            self._sizes[model.digest] = sum(file.stat().st_size for file in files if file.is_file())
        return self._sizes[model.digest]


def expand(axes: Axes, world: World) -> Matrix:
    """Every cell of the axes, sorted into those that may work and those that cannot.

    A cell that may work can still be refused by its engine once the model's recipe is known, see `refine`.

    Raises:
        InputError: an unknown platform, engine or precision, or a number that makes no sense.
    """
    _check(axes)
    matrix = Matrix()
    seen: set[str] = set()
    for part in (axes, *(_single(axes, entry) for entry in axes.extra)):
        for cell, reason, hint in _cells(part, world):
            if cell.key in seen:
                continue
            seen.add(cell.key)
            if any(_matches(cell, entry) for entry in axes.exclude):
                continue
            if reason:
                matrix.skipped.append(Skipped(cell, reason, hint))
                continue
            matrix.cells.append(cell)
            known = world.model(cell.model, cell.task)
            assert isinstance(known, Model)
            matrix.models[(cell.model, cell.task)] = known
    return matrix


def _check(axes: Axes) -> None:
    from accel.core.registry import names, suggest

    engines = [*axes.engines, *(entry["engine"] for entry in axes.extra if "engine" in entry)]
    for engine in engines:
        if engine not in names("engines"):
            raise InputError(f"no engine is called {engine!r}", suggest(engine, names("engines")))
    for precision in [*axes.precisions, *(entry["precision"] for entry in axes.extra if "precision" in entry)]:
        if precision not in PRECISIONS:
            raise InputError(f"no precision is called {precision!r}", f"use {', '.join(PRECISIONS)}")
    for name, values, least in (
        ("batch", axes.batches, 1),
        ("seq", axes.lengths, 1),
        ("threads", axes.threads, 0),
    ):
        for value in values:
            if value is not None and value < least:
                raise InputError(f"--{name} cannot be {value}", f"give {least} or more")


def _single(axes: Axes, entry: dict[str, Any]) -> Axes:
    """The axes with one value each for what an extra cell says."""
    names = {"engine": "engines", "precision": "precisions", "batch": "batches", "seq": "lengths", "task": "tasks"}
    changes: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "model":
            changes["models"] = (value,)
        elif key in ("hw", "weights"):
            changes[key] = value
        else:
            changes[names.get(key, key)] = (value,)
    return dataclasses.replace(axes, extra=(), **changes)


def _matches(cell: Cell, entry: dict[str, Any]) -> bool:
    own = {
        "model": cell.model,
        "task": cell.task,
        "engine": cell.engine,
        "precision": cell.precision,
        "batch": cell.batch,
        "seq": cell.length,
        "threads": cell.threads,
    }
    hw = entry.get("hw")
    return (hw is None or hw in (cell.platform, cell.device)) and all(
        own[name] == value for name, value in entry.items() if name != "hw"
    )


def _cells(axes: Axes, world: World) -> Iterator[tuple[Cell, str, str]]:
    """Cells with the reason why they cannot work (empty if they may) and a hint."""
    devices = world.devices(axes.hw)
    for name, task in itertools.product(axes.models, axes.tasks or ("",)):
        model = world.model(name, task)
        known = model.task if isinstance(model, Model) else task
        if isinstance(model, Model):
            world.remember(name, known, model)
        for device in devices:
            for engine in _engines(axes, device):
                for precision, threads, batch, length in itertools.product(
                    axes.precisions, axes.threads, axes.batches, axes.lengths
                ):
                    where = device.cell if isinstance(device, Skipped) else device
                    cell = Cell(
                        model=name,
                        task=known,
                        platform=where.platform,
                        device=where.device if isinstance(where, Cell) else where.id,
                        engine=engine,
                        precision=precision,
                        batch=batch,
                        length=length,
                        threads=threads,
                        weights=axes.weights,
                    )
                    yield cell, *_reason(cell, model, device, world)


def _engines(axes: Axes, device: Device | Skipped) -> Sequence[str]:
    """The engines asked for; without a wish those that are installed for the device."""
    from accel.core.registry import builtin_names
    from accel.core.registry import engine as plugin

    if axes.engines:
        return axes.engines
    if isinstance(device, Skipped):
        return ("",)
    fitting = [
        name
        for name in builtin_names("engines")
        if device.platform in plugin(name).platforms and device.platform not in plugin(name).on_request
    ]
    ready = [name for name in fitting if not plugin(name).missing_on(device.platform)]
    return ready or fitting or ("",)


def _reason(cell: Cell, model: Model | AccelError, device: Device | Skipped, world: World) -> tuple[str, str]:
    from accel.core.registry import engine as plugin

    if isinstance(model, AccelError):
        return model.message, model.hint
    if isinstance(device, Skipped):
        return device.reason, device.hint
    if not cell.engine:
        return f"no engine here runs on {cell.platform}", "accel detect shows the engines of each device"
    offer = plugin(cell.engine)
    if cell.platform not in offer.platforms:
        return f"{cell.engine} does not run on {cell.platform}", f"it runs on {', '.join(offer.platforms)}"
    missing = offer.missing_on(cell.platform)
    if missing:
        return missing, "install it, or leave the engine out"
    possible = [*device.precisions.get("fast", []), *device.precisions.get("possible", [])]
    if possible and cell.precision not in possible:
        return f"{cell.device} has no {cell.precision}", f"it has {', '.join(dict.fromkeys(possible))}"
    if cell.threads and device.threads is None:
        return f"threads say nothing about {cell.device}", "leave --threads out for it"
    if cell.threads and device.threads is not None and cell.threads > device.threads:
        return f"this process may use {device.threads} threads, not {cell.threads}", "ask for fewer threads"
    return _room(cell, model, device, world)


def _room(cell: Cell, model: Model, device: Device, world: World) -> tuple[str, str]:
    """Whether the input is too long for the model, or the weights too large for the device whatever is done."""
    limit = _positions(model)
    if cell.length is not None and limit is not None and cell.length > limit:
        return f"{cell.model} takes {limit} tokens at most, not {cell.length}", "ask for a smaller --seq"
    least = world.weights_bytes(model) * _BYTES[cell.precision] // 4
    room = device.memory_total_bytes
    if room is not None and least > room:
        return (
            f"its weights take at least {least / 1e9:.1f} GB in {cell.precision}, and {cell.device} has "
            f"{room / 1e9:.1f} GB",
            "use a smaller model or a lower precision",
        )
    return "", ""


def _positions(model: Model) -> int | None:
    """The most tokens that the configuration admits, where it says so."""
    if model.family not in ("text-encoder", "text-decoder"):
        return None
    text = model.config.get("text_config") or model.config
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"):
        value = text.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def refine(cell: Cell, recipe: Recipe) -> list[Cell] | Skipped:
    """The cells that an engine makes of one once the model's recipe is known: one for each way to the precision."""
    from accel.core.registry import engine as plugin

    if cell.length is not None and not _has_length(recipe):
        return Skipped(cell, f"inputs of {recipe.task} have no length to choose", "leave --seq out for this model")
    plans = plugin(cell.engine).plans(cell.device, recipe, [cell.precision])
    if not plans:
        return Skipped(
            cell, f"{cell.engine} has no {cell.precision} for this model on {cell.device}", "choose another precision"
        )
    return [dataclasses.replace(cell, precision=p.precision, variant=p.variant) for p in plans]


def _has_length(recipe: Recipe) -> bool:
    """Whether a graph of the model has a dynamic axis besides the batch that a text or a sound decides."""
    if recipe.family in ("text-encoder", "text-decoder", "audio"):
        return True
    return any(
        isinstance(axis, str) and axis != "batch" and "mask" not in tensor.name
        for graph in recipe.graphs.values()
        for tensor in graph.inputs
        for axis in tensor.axes[1:]
    )
