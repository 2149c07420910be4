"""One `accel bench`: from what was asked to a report, with everything kept on the way."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.core import results
from accel.core.bench import baselines, budgets, compare, control, duel, journal, lanes, measured, own
from accel.core.bench.cells import Skipped, digest
from accel.core.bench.environment import environment
from accel.core.bench.matrix import Axes, Matrix, World, expand
from accel.core.bench.measured import Outcome
from accel.core.bench.process import Settings
from accel.core.bench.runner import Listener, Sweep, Wanted
from accel.core.errors import AccelError, InputError, TransferError, UnavailableError
from accel.core.fingerprint import fingerprint
from accel.core.types import Model, Options
from accel.core.worker import items_from_json, to_json

SCHEMA = "accel.bench/1"


@dataclass(frozen=True)
class Order:
    """What is to be measured, and how well.

    Attributes:
        benchmarks: files and names of users' own benchmarks.
        frozen: only models that `accel.lock` names.
    """

    axes: Axes
    wanted: Wanted = field(default_factory=Wanted)
    benchmarks: tuple[str, ...] = ()
    trust_remote_code: bool = False
    frozen: bool = False

    def as_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`."""
        settings = self.wanted.settings
        plain = dataclasses.asdict(self)
        plain["wanted"]["settings"] |= {
            "options": to_json(settings.options),
            "items": [to_json(item) for item in settings.items],
        }
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Order:
        """Reads what `as_json` wrote."""

        def tuples(values: dict[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

        settings = tuples(data["wanted"]["settings"])
        settings["items"] = tuple(items_from_json(list(settings["items"])))
        options = settings["options"]
        folder = options["output_dir"]
        settings["options"] = Options(**{**options, "output_dir": Path(folder) if folder else None})
        wanted = Wanted(**{**data["wanted"], "settings": Settings(**settings)})
        code, frozen = data["trust_remote_code"], data.get("frozen", False)
        return cls(Axes(**tuples(data["axes"])), wanted, tuple(data["benchmarks"]), code, frozen)


@dataclass(frozen=True)
class Gates:
    """What is done with what was measured.

    Attributes:
        threshold: ratio from which a cell counts as slower than its baseline, or None for no such gate.
    """

    save_as: str | None = None
    baseline: str | None = None
    threshold: float | None = None
    budgets: tuple[budgets.Budget, ...] = ()


@dataclass
class Report:
    """What came out.

    Attributes:
        cells: objects of `accel.bench/1`, those left out included.
        comparisons: with the baseline; None without one.
        broken: (key of a cell, budget that it breaks).
    """

    run: str
    environment: dict[str, Any]
    elapsed_s: float
    target: float
    cells: list[dict[str, Any]]
    skipped: list[Skipped]
    outcomes: list[Outcome]
    comparisons: list[compare.Comparison] | None = None
    baseline: dict[str, Any] | None = None
    threshold: float | None = None
    broken: list[tuple[str, str]] = field(default_factory=list)
    saved_as: str | None = None

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Cells that failed."""
        return [cell for cell in self.cells if cell["status"] == "failed"]

    @property
    def regressions(self) -> list[compare.Comparison]:
        """Cells that fail the gate: slower than the baseline, or failing where the baseline did not."""
        if self.threshold is None:
            return []
        return [c for c in self.comparisons or [] if c.word in ("slower", "failed")]

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        comparisons = self.comparisons
        return {
            "schema": SCHEMA,
            "run": self.run,
            "elapsed_s": self.elapsed_s,
            "precision_target": self.target,
            "environment": self.environment,
            "cells": self.cells,
            "baseline": self.baseline,
            "regression_threshold": None if self.threshold is None else self.threshold - 1.0,
            "comparisons": None if comparisons is None else [c.as_json() for c in comparisons],
            "broken_budgets": [{"key": key, "reason": why} for key, why in self.broken],
            "saved_as": self.saved_as,
        }


def carry_out(order: Order | None, gates: Gates, listener: Listener, *, resume: bool = False) -> Report:
    """Measures an order and judges it.

    Args:
        order: None goes on with the sweep that was interrupted last.
        resume: go on where an earlier sweep of the same order was interrupted.

    Raises:
        InputError, UnavailableError, ...: nothing can be measured. TransferError: nothing can be kept.
    """
    started = time.monotonic()
    if order is None:
        order = _interrupted()
    if gates.save_as:
        baselines.check(gates.save_as)
    baseline = baselines.load(gates.baseline) if gates.baseline else None
    world = World(_resolver(order))
    matrix = expand(order.axes, world)
    own.add(matrix, order.benchmarks, world, order.axes.hw, order.axes.threads)
    if not matrix.cells:
        raise _nothing(matrix, world, order)
    if gates.save_as or gates.baseline:
        own.add_control(matrix)
    where = environment()
    with journal.opened(_sweep_id(order, matrix)) as log:
        found = log.read() if resume else None
        if resume and found is None:
            raise InputError(
                "there is no interrupted sweep of this very matrix", "leave --resume out, or give it alone"
            )
        run = found.run if found is not None else uuid.uuid4().hex
        if found is None:
            log.begin(order.as_json(), run)
        sweep = Sweep(matrix, order.wanted, listener, log, _Store(run, order, where, listener).keep, found)
        try:
            outcomes = sweep.run()
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal, or the time limit of the command
                listener.warn("interrupted: what was measured is kept, and accel bench --resume goes on from there")
            raise
        report = _report(order, sweep, outcomes, run, where, started)
        _merge(listener)
        if baseline is not None:
            _compare(report, baseline, gates, order, matrix, listener)
        report.broken = budgets.broken(gates.budgets, report.cells)
        if gates.save_as:
            report.saved_as = str(baselines.save(gates.save_as, outcomes, where))
        report.elapsed_s = time.monotonic() - started
        log.discard()
    return report


def _interrupted() -> Order:
    found = journal.Journal(journal.root() / journal.latest()).read()
    if found is None:
        raise InputError("the journal of the interrupted sweep cannot be read", "start it anew")
    try:
        return Order.from_json(found.request)
    except (KeyError, TypeError) as error:
        raise InputError("the interrupted sweep was one of another version of accel", "start it anew") from error


def _resolver(order: Order) -> Any:
    from accel.core.models import resolve

    def find(name: str, task: str) -> Model:
        return resolve(
            name,
            task=task or None,
            weights=order.axes.weights,
            trust_remote_code=order.trust_remote_code,
            lock="frozen" if order.frozen else "use",
        )

    return find


def _sweep_id(order: Order, matrix: Matrix) -> str:
    """The same for the same order on the same machine with the same models; gates do not matter."""
    digests = sorted({model.digest for model in [*matrix.models.values(), *matrix.benchmarks.values()]})
    return digest([order.as_json(), fingerprint(), digests])


def _nothing(matrix: Matrix, world: World, order: Order) -> AccelError:
    """The error for a matrix of no cells."""
    if not order.axes.models and not order.benchmarks:
        return InputError("there is nothing to measure", "name a model: accel bench all-minilm")
    if not matrix.skipped:
        return InputError("the matrix has no cells: everything is excluded", "see [[exclude]] in the file of --matrix")
    failed = world.first_error()
    if failed is not None:
        return failed
    first = matrix.skipped[0]
    many = f"none of {len(matrix.skipped)} cells can be measured: " if len(matrix.skipped) > 1 else ""
    return UnavailableError(f"{many}{first.reason}", first.hint)


class _Store:
    """Puts finished cells into the results."""

    def __init__(self, run: str, order: Order, where: dict[str, Any], listener: Listener) -> None:
        self._run, self._order, self._listener = run, order, listener
        self._where = {name: value for name, value in where.items() if name != "path"}
        self._warned = False

    def keep(self, outcome: Outcome) -> None:
        """Appends one cell; it is in the journal already, so a failure here loses nothing."""
        if outcome.cell.benchmark == control.NAME:
            return
        try:
            results.append(measured.record(outcome, self._run, self._order.wanted.target, self._where))
        except TransferError as error:
            if not self._warned:
                self._warned = True
                self._listener.warn(f"the results cannot be kept: {error.message}")


def _merge(listener: Listener) -> None:
    try:
        results.merge()
    except TransferError as error:
        listener.warn(f"the results wait in the spool: {error.message}")


def _report(
    order: Order, sweep: Sweep, outcomes: Sequence[Outcome], run: str, where: dict[str, Any], started: float
) -> Report:
    target = order.wanted.target
    cells = [measured.describe(outcome, target) for outcome in outcomes if outcome.cell.benchmark != control.NAME]
    left_out = [Outcome(s.cell, "skipped", "skipped", s.reason, s.hint) for s in sweep.skipped]
    cells += [measured.describe(outcome, target) for outcome in left_out]
    shown = {name: value for name, value in where.items() if name not in ("path", "code")}
    return Report(run, shown, time.monotonic() - started, target, cells, sweep.skipped, list(outcomes))


def _compare(
    report: Report,
    baseline: baselines.Baseline,
    gates: Gates,
    order: Order,
    matrix: Matrix,
    listener: Listener,
) -> None:
    """Compares with the baseline; whatever looks slower is measured again before it is called so."""
    threshold = gates.threshold or 1.03
    old = compare.old_environment(baseline)
    faster, machine = compare.machine_change(report.outcomes, baseline)
    outcomes = [outcome for outcome in report.outcomes if outcome.cell.benchmark != control.NAME]
    found = compare.stored(outcomes, baseline, threshold, [s.cell.key for s in report.skipped], machine)
    by_key = {outcome.cell.key: outcome for outcome in outcomes}
    ways = {c.key: old.way(by_key[c.key], baseline.cells[c.key]) for c in found if c.p is not None}
    report.baseline = {
        "name": baseline.name,
        "created": baseline.created,
        "old_can_run": "twice" in ways.values(),
        "machine_slower": machine - 1.0,
        "differences": [{"what": what, "then": then, "now": now} for what, then, now in old.differences],
    }
    report.threshold = gates.threshold

    def look(keys: Sequence[str], why: str) -> dict[str, compare.Comparison]:
        """Fresh processes: old and new in turn, or where the old cannot run the new against what is stored."""
        again = []
        for key in keys:
            outcome, wanted = by_key[key], order.wanted
            listener.show(f"{why} {key}")
            model = matrix.model(outcome.cell)
            if ways[key] == "twice":
                pair = duel.Duel(wanted.settings, old.runtime, threshold, wanted.max_time_s, len(keys), listener.show)
                again.append(pair.fight(outcome, model))
            else:
                raised = threshold * (machine if lanes.resource(outcome.cell) == "host" else 1.0)
                again.append(duel.once_more(outcome, model, baseline, wanted, raised, listener.show))
        return {c.key: c for c in compare.judged(again, threshold)}

    clear = {c.key for c in found if compare.clear(c, threshold * faster)}
    twice = [key for key, way in ways.items() if way == "twice" and key not in clear]
    if twice:
        first = look(twice, "old and new in turn:")
        found = [first.get(c.key, c) for c in found]
    # where the old side cannot run, more processes of the new one are all that can be had
    doubtful = [c.key for c in found if ways.get(c.key) == "stored" and compare.doubtful(c, threshold * machine)]
    if doubtful:
        more = look(doubtful, "in more processes:")
        found = [more.get(c.key, c) for c in found]
    suspects = [c.key for c in found if c.word == "slower"]
    second = look(suspects, "measuring again:") if suspects else {}
    found = [compare.confirmed(c, second[c.key]) if c.key in second else c for c in found]
    report.comparisons = [compare.excused(c) if ways.get(c.key) == "identical" else c for c in found]
