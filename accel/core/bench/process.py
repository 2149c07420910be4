"""The near end of a cell: starts its process, has it go through the phases, and says why it failed if it did."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from accel.core.bench import meters, noise
from accel.core.bench.cells import Cell
from accel.core.errors import AccelError, IncompatibleError, InputError, OutOfMemoryError, UnavailableError
from accel.core.types import Item, Model, Options
from accel.core.worker import Lost, Worker, to_json

#: variable that marks everything a cell starts, so that nothing of it outlives the cell
MARK = "ACCEL_BENCH_CELL"
#: most runs of one stretch
MOST_RUNS = 5000


@dataclass(frozen=True)
class Runtime:
    """Another environment that a cell can run in: its interpreter, and the folders that it imports from."""

    interpreter: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """How cells are measured.

    Attributes:
        timeout_s: the longest that one cell's process may take for all that it does.
        memory_limit: bytes of private memory of a cell's process; None for nearly all that is free.
        affinity: CPUs that every cell is put on; None for a choice by its threads.
    """

    timeout_s: float = 600.0
    memory_limit: int | None = None
    affinity: tuple[int, ...] | None = None
    options: Options = field(default_factory=Options)
    items: tuple[Item, ...] = ()


@dataclass
class Visit:
    """What one process of a cell measured; times in seconds.

    Attributes:
        samples: every run after the first inference, in order. marks: how many there were after each stretch.
        first_token, per_token: for decoders, of each run.
        stretches: snapshots before and after each measured stretch.
        joules: energy of all measured runs; None where it is not measured.
    """

    precision: str = ""
    prepare_s: float | None = None
    load_s: float | None = None
    first_s: float | None = None
    compile_s: float | None = None
    length: int | None = None
    flops: float | None = None
    samples: list[float] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    per_token: list[float] = field(default_factory=list)
    stretches: list[tuple[noise.Snapshot, noise.Snapshot]] = field(default_factory=list)
    peak_bytes: int | None = None
    resident_bytes: int | None = None
    device_bytes: int | None = None
    joules: float | None = None
    spent_s: float = 0.0
    opening_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`."""
        return {**self.__dict__, "stretches": [[a.__dict__, b.__dict__] for a, b in self.stretches]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Visit:
        """Reads what `as_json` wrote."""
        pairs = [(noise.Snapshot(**a), noise.Snapshot(**b)) for a, b in data["stretches"]]
        return cls(**{**data, "stretches": pairs})


def cause_of(error: AccelError) -> str:
    """One word for why a cell failed: crash, timeout, garbage, memory, unavailable, input or engine."""
    if isinstance(error, Lost):
        return error.cause
    kinds = ((OutOfMemoryError, "memory"), (UnavailableError, "unavailable"), (InputError, "input"))
    return next((word for kind, word in kinds if isinstance(error, kind)), "engine")


class CellProcess:
    """A cell's process. Closed at the end of a `with` block, together with everything it started.

    Attributes:
        paused: whether it was stopped with `pause`.
    """

    def __init__(
        self,
        cell: Cell,
        model: Model,
        settings: Settings,
        *,
        cpus: Sequence[int] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.cell, self.settings = cell, settings
        self.visit = Visit()
        self._left_s = settings.timeout_s
        self._token = uuid.uuid4().hex
        self._meter = meters.Meter(cell.device)
        self.paused = False
        threads = {"OMP_NUM_THREADS": str(cell.threads)} if cell.threads else {}
        bench: dict[str, Any] = {"batch": cell.batch, "length": cell.length, "cpus": list(cpus) if cpus else None}
        if cell.benchmark:
            bench |= {"source": model.entry["source"], "name": cell.benchmark, "model": cell.model}
        self._worker = Worker(
            model,
            settings.items,
            settings.options,
            settings.memory_limit if settings.memory_limit is not None else _free_memory(cell),
            module="accel.core.bench.custom" if cell.benchmark else "accel.core.bench.far",
            environment={MARK: self._token, **threads},
            python=None if runtime is None else (runtime.interpreter, runtime.path),
            extra={"bench": bench},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def meter_missing(self) -> str:
        """Why energy is not measured; empty where it is."""
        return self._meter.missing

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Has the process do one thing.

        Raises:
            AccelError: what went wrong; `cause_of` says it in a word.
        """
        started = time.monotonic()
        try:
            return self._worker.call(op, timeout=max(0.001, self._left_s), **arguments)
        except Lost as error:
            if error.cause != "timeout":
                raise
            limit = f"{self.settings.timeout_s:g} s"
            raise Lost(f"it took longer than {limit} ({op})", "give it more with --cell-timeout", "timeout") from None
        finally:
            # the time that a process is paused is not its own
            self._left_s -= time.monotonic() - started

    def open(self) -> None:
        """Loads the model and makes the first inference; the plan has to be ready unless the engine needs torch."""
        started = time.monotonic()
        plan = to_json(self.cell.plan())
        about = self.call("describe")
        self.visit.length, self.visit.flops = about["length"], about["flops"]
        loaded = self.call("load", plan=plan)
        self.visit.load_s, self.visit.precision = loaded["load_s"], loaded["precision"]
        first = self.call("first")
        self.visit.first_s, self.visit.compile_s = first["first_s"], first["compile_s"]
        self.visit.opening_s = time.monotonic() - started

    def agree(self, reference: str) -> dict[str, Any]:
        """Agreement with the reference written to that path."""
        return self.call("agree", path=reference)

    def measure(self, seconds: float, least: int = 1, *, lead: bool = True) -> None:
        """Measures one stretch and adds it to the visit.

        Args:
            lead: begin with an unmeasured run, for a process that had to pause.
        """
        pid = self._worker.pid
        energy, before = self._meter.read(), noise.snapshot(pid)
        started = time.monotonic()
        answer = self.call("block", seconds=seconds, least=least, most=MOST_RUNS, lead=lead)
        took = time.monotonic() - started
        after, energy_after = noise.snapshot(pid), self._meter.read()
        visit = self.visit
        visit.samples += [float(sample) for sample in answer["samples"]]
        visit.marks.append(len(visit.samples))
        visit.first_token += answer["first_token"]
        visit.per_token += answer["per_token"]
        visit.stretches.append((before, after))
        visit.peak_bytes = max(filter(None, (visit.peak_bytes, answer["peak_bytes"])), default=None)
        visit.resident_bytes = answer["resident_bytes"]
        held = answer["device_bytes"] or meters.card_memory(self._meter.handle, pid)
        visit.device_bytes = max(filter(None, (visit.device_bytes, held)), default=None)
        joules = meters.used(energy, energy_after)
        measured = sum(answer["samples"])
        if joules is not None and took > 0:
            # the meter ran over the whole stretch, its unmeasured start included
            visit.joules = (visit.joules or 0.0) + joules * min(1.0, measured / took)
        visit.spent_s += took

    def resident(self) -> int | None:
        """Bytes of memory that the process has now, or None where the system does not tell."""
        from accel.core.probe import read_text

        fields = read_text(f"/proc/{self._worker.pid}/statm", 256).split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None

    def pause(self) -> None:
        """Stops the process where it is, so that threads that spin or tidy up disturb nobody."""
        self._signal(signal.SIGSTOP)
        self.paused = True

    def go_on(self) -> None:
        """Lets a paused process run again."""
        if self.paused:
            self._signal(signal.SIGCONT)
            self.paused = False

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._worker.pid, number)

    def close(self) -> None:
        """Ends the process and everything that it started, also what left its group."""
        self._worker.close()
        for pid in _marked(self._token):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _marked(token: str) -> list[int]:
    """Processes that carry the mark of a cell in their environment."""
    wanted = f"{MARK}={token}".encode()
    found = []
    try:
        entries = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit()]
    except OSError:
        return []
    for name in entries:
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(int(name))
    return found


def _free_memory(cell: Cell) -> int | None:
    """Nine tenths of what is free for cells on the CPU, so that one that eats all memory fails before the machine."""
    from accel.core.cpu import memory

    if cell.platform not in ("cpu", "openvino"):
        return None  # drivers of other devices reserve more address space than there is memory
    free = memory().free_bytes
    return None if free is None else int(0.9 * free)


def unusable(found: dict[str, Any]) -> AccelError | None:
    """The failure that an agreement stands for: output that is not finite, or of another shape."""
    if not found["finite"]:
        return IncompatibleError("its output has values that are not finite numbers", "use another engine or precision")
    return None
