"""A user's own benchmark: a class with `setup`, `execute` and `teardown`, registered by a decorator.

    from accel.core.bench.registry import BenchmarkBase, BenchmarkRegistry

    @BenchmarkRegistry.register(name="tokenizer", category="text", models=["bert-base"], hardware=["cpu"])
    class Tokenizing(BenchmarkBase):
        def setup(self):
            self.tokenizer = load(self.model)

        def execute(self):
            self.tokenizer.encode("some text")

`accel bench --benchmark FILE.py` measures every benchmark that a file registers. An installed package offers its own
under the entry-point group `accel.benchmarks`, whose value is the module that registers them.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from accel.core.errors import InputError

ENTRY_POINTS = "accel.benchmarks"
#: accel's own benchmark, see there
CONTROL = "accel.core.bench.control"


class BenchmarkBase(ABC):
    """One benchmark. An instance lives in a process of its own and is made for one model on one device.

    Attributes:
        model: one of the models it was registered for; an empty text where it has none.
        hardware: the platform that it is to use. device: its device there, such as `cpu:0`.
        threads: processor threads it is asked to use; 0 for any number.
    """

    def __init__(self, model: str = "", hardware: str = "cpu", device: str = "cpu:0", threads: int = 0) -> None:
        self.model, self.hardware, self.device, self.threads = model, hardware, device, threads

    def setup(self) -> None:  # noqa: B027 - nothing to set up is a valid answer
        """Makes ready, once, before the first `execute`."""

    @abstractmethod
    def execute(self) -> Mapping[str, float] | None:
        """One run: what is timed. It may return numbers by name, such as an accuracy; the last ones are kept."""

    def teardown(self) -> None:  # noqa: B027 - nothing to tidy up is a valid answer
        """Tidies up, once, after the last `execute`."""


@dataclass(frozen=True)
class Registered:
    """A benchmark and what it was registered with."""

    name: str
    category: str
    models: tuple[str, ...]
    hardware: tuple[str, ...]
    kind: type[BenchmarkBase]


T = TypeVar("T", bound=type[BenchmarkBase])


class BenchmarkRegistry:
    """The benchmarks that this process has imported."""

    _known: ClassVar[dict[str, Registered]] = {}

    @classmethod
    def register(
        cls,
        name: str,
        category: str = "",
        models: Sequence[str] = (),
        hardware: Sequence[str] = ("cpu",),
    ) -> Callable[[T], T]:
        """Registers the class that it decorates.

        Args:
            name: what it is called in results.
            category: to group results by.
            models: a cell for each of them; none is one cell without a model.
            hardware: platforms or devices, a cell for each that is here.

        Raises:
            InputError: the name is taken, or the class has no `execute`.
        """

        def decorate(kind: T) -> T:
            if not (isinstance(kind, type) and issubclass(kind, BenchmarkBase)):
                raise InputError(
                    f"the benchmark {name!r} is not a BenchmarkBase", "derive its class from BenchmarkBase"
                )
            if name in cls._known and cls._known[name].kind is not kind:
                raise InputError(f"two benchmarks are called {name!r}", "give one of them another name")
            for what, given in (("models", models), ("hardware", hardware)):
                if isinstance(given, str):
                    raise InputError(f"the benchmark {name!r}: {what} is a text, not a list", f'{what}=["{given}"]')
            cls._known[name] = Registered(name, category, tuple(models), tuple(hardware), kind)
            return kind

        return decorate

    @classmethod
    def known(cls) -> dict[str, Registered]:
        """Everything registered so far, by name."""
        return dict(cls._known)


def load(source: str) -> dict[str, Registered]:
    """Imports a file or the module behind an entry point, and returns what it registered.

    Raises:
        InputError: it cannot be imported, or registers nothing.
    """
    before = set(BenchmarkRegistry.known())
    try:
        if source.endswith(".py"):
            _import_file(source)
        elif source == CONTROL:
            importlib.import_module(CONTROL)
        else:
            _import_entry(source)
    except InputError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"{source} cannot be imported: {type(error).__name__}: {error}", "run it with python"
        ) from error
    found = {name: entry for name, entry in BenchmarkRegistry.known().items() if name not in before}
    if not found:
        raise InputError(
            f"{source} registers no benchmark", "decorate a class with @BenchmarkRegistry.register(name=...)"
        )
    return found


def _import_file(source: str) -> None:
    import importlib.util
    from pathlib import Path

    path = Path(source).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"there is no file {source}", "check the path of --benchmark")
    sys.path.insert(0, str(path.parent))  # as python FILE.py does, for what lies beside it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def _import_entry(source: str) -> None:
    from importlib.metadata import entry_points

    from accel.core.registry import suggest

    offered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if source not in offered:
        hint = suggest(source, offered) if offered else "name a file that ends in .py"
        raise InputError(f"no installed package offers benchmarks called {source!r}", hint)
    offered[source].load()


def as_json(found: Mapping[str, Registered]) -> list[dict[str, Any]]:
    """What was registered, without the classes."""
    return [
        {"name": e.name, "category": e.category, "models": list(e.models), "hardware": list(e.hardware)}
        for e in found.values()
    ]
