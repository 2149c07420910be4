"""Sessions of onnxruntime-web: opened in a page when first needed, and once more after a crash."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accel.core.browser import audience, pool
from accel.core.browser.choosing import by_rule
from accel.core.browser.control import BrowserLost
from accel.core.browser.finding import Browser, chosen, find
from accel.core.browser.pages import Page, PageError
from accel.core.contracts import Decoding, Session
from accel.core.cpu import limits
from accel.core.decoding import PRESENT
from accel.core.errors import AccelError, IncompatibleError, OutOfMemoryError, UnavailableError
from accel.core.padding import cut, padded
from accel.core.types import GraphSpec, Plan, Recipe
from accel.engines._ort_web_decoding import FixedWebDecoding, WebDecoding
from accel.engines._ort_web_truth import described

if TYPE_CHECKING:
    from accel.core.contracts import Tensors

T = TypeVar("T")
#: graphs of fixed shape that are kept open; each holds its own copy of the weights
_SHAPES = 4
_NUMBERS = itertools.count()
_MEMORY = (
    "out of memory",
    "oom",
    "bad_alloc",
    "allocation failed",
    "failed to allocate",
    "could not allocate",
    "safeintonoverflow",
)
#: after these WebAssembly's memory cannot be trusted
_BROKEN = ("aborted(", "unreachable", "memory access out of bounds", "device is lost", "device lost")


class OrtWebSession(Session):
    """The graphs of a plan in a page.

    Args:
        single: one inference is coming, so that it has to open soon rather than execute fast.
    """

    def __init__(self, folder: Path, recipe: Recipe, plan: Plan, *, single: bool = False) -> None:
        self.effective_precision = plan.precision
        self._folder, self._specs, self._plan = folder, recipe.graphs, plan
        try:
            self._graphs: dict[str, Any] = json.loads((folder / "graphs.json").read_text())
        except (OSError, ValueError) as error:
            raise IncompatibleError(
                f"what was prepared for onnxruntime-web is damaged: {error}", "run it again"
            ) from error
        self.browser = _browser(plan, recipe.family)
        self._kind = pool.Kind(
            self.browser, "wasm" if plan.platform == "cpu" else plan.platform, plan.threads or limits()[1]
        )
        # threads of WebAssembly that wait for work by spinning keep the answer's way to us from the processor
        self._extra: dict[str, Any] = {"session": {"force_spinning_stop": "1"}}
        if single:
            self._extra = {"session": {"disable_prepacking": "1", "intra_op": {"allow_spinning": "0"}}}
        self._page: Page | None = None
        self._open: OrderedDict[tuple[Any, ...], str] = OrderedDict()
        self._opened: dict[str, dict[str, Any]] = {}
        self._device_type = ""
        #: keys of tensors in the page that nobody needs any more
        self.dropped: list[str] = []
        #: milliseconds that the page itself took for the last call
        self.inner_ms = 0.0
        self._retried(lambda: [self._session(graph, {}) for graph in self._graphs if not self._static])

    @property
    def _static(self) -> bool:
        """WebNN leaves every graph whose shapes it does not know to WebAssembly."""
        return self._plan.platform == "webnn"

    def run(self, graph: str, feeds: Tensors) -> Tensors:
        """See `Session.run`."""
        spec = self._specs[graph]
        wide, sizes = padded(spec, feeds) if self._static else (feeds, {})
        answer = self._retried(lambda: self._run(graph, wide))
        return cut(spec, answer, sizes) if self._static else answer

    def _run(self, graph: str, feeds: Tensors) -> Tensors:
        found = self.execute(graph, feeds)
        return {t.name: found[t.name] for t in self._specs[graph].outputs}

    def execute(
        self, graph: str, feeds: Tensors, shapes: Mapping[str, tuple[int, ...]] | None = None, **kept: Any
    ) -> Tensors:
        """Executes a graph once in the page; `kept` says which tensors are there already, or stay (`engine.js`).

        Args:
            shapes: of inputs that are there already, for graphs of fixed shape.

        Raises:
            BrowserLost: the browser is gone, and with it what it kept.
        """
        name = self._session(graph, {**(shapes or {}), **{n: array.shape for n, array in feeds.items()}})
        dropped, self.dropped[:] = list(self.dropped), []
        head, found = self._call("run", feeds, name=name, drop=dropped, **kept)
        self.inner_ms = float(head["ms"])
        return found

    def decode(self, graph: GraphSpec, feeds: Tensors, max_length: int) -> Decoding:
        """See `Session.decode`. The cache stays in the page, on the graphics processor where it executes there."""
        return FixedWebDecoding(self, graph, feeds, max_length) if self._static else WebDecoding(self, graph, feeds)

    def _retried(self, work: Callable[[], T]) -> T:
        """Does something in the page, and once more in a new one when a browser is lost."""
        try:
            return work()
        except BrowserLost as first:
            self.lose()
            try:
                return work()
            except BrowserLost as second:
                raise self.useless(first, second) from second

    def useless(self, first: BrowserLost, second: BrowserLost) -> UnavailableError:
        """The error for a browser that was lost, replaced, and lost again."""
        self.lose()
        before = ", twice" if str(first) == str(second) else f"; before that, {first}"
        return UnavailableError(
            f"{self.browser.kind} ({self.browser.path}) is of no use: {second}{before}",
            "try another browser (accel detect --deep shows them), or --hw cpu",
        )

    def lose(self) -> None:
        """Ends the page, which crashed, hangs or cannot be trusted any more."""
        if self._page is not None:
            pool.discard(self._kind, self._page)
        self._page = None
        self._open.clear()
        self.dropped.clear()

    def _call(self, op: str, tensors: Tensors | None = None, **head: Any) -> tuple[dict[str, Any], Tensors]:
        assert self._page is not None
        try:
            return self._page.call(op, tensors, **head)
        except PageError as error:
            raise self._explained(str(error)) from error

    def _explained(self, text: str) -> AccelError:
        """The page's error as one of ours; a page that cannot be trusted any more is ended."""
        low = text.lower()
        line = next((part.strip() for part in text.splitlines() if part.strip()), "unknown")[:300]
        if any(word in low for word in _BROKEN) or any(word in low for word in _MEMORY):
            self.lose()
        if any(word in low for word in _MEMORY):
            return OutOfMemoryError(f"memory ran out in {self.browser.kind}: {line}", "use a smaller batch")
        return IncompatibleError(f"onnxruntime-web failed: {line}", "use another engine (--engine)")

    def _session(self, graph: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The name of the page's session for a graph, with fixed shapes where the platform needs them."""
        key = (graph, *sorted(shapes.items())) if self._static else (graph,)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        page = self._page = pool.lease(self._kind)
        while self._static and len(self._open) >= _SHAPES:
            _, oldest = self._open.popitem(last=False)
            self._call("close", name=oldest)
        name = f"{graph}-{next(_NUMBERS)}"
        about = self._graphs[graph]
        urls = {file: f"models/{name}/{file}" for file in (about["file"], *about["data"])}
        page.server.files.update({url: self._folder / file for file, url in urls.items()})
        try:
            head, _ = self._call(
                "open",
                name=name,
                graph=urls[about["file"]],
                data={file: urls[file] for file in about["data"]},
                options=self._options(graph, about, shapes),
            )
        finally:
            for url in urls.values():
                page.server.files.pop(url, None)
        self._open[key] = name
        self._opened[graph] = head
        return name

    def _options(self, graph: str, about: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        provider: Any = {"webgpu": "webgpu", "cpu": "wasm"}.get(self._plan.platform)
        if self._static:
            provider = {"name": "webnn", "deviceType": self._webnn_type()}
        sizes = {
            axis: int(size)
            for name, shape in shapes.items()
            for axis, size in zip(about["axes"][name], shape, strict=True)
            if isinstance(axis, str)
        }
        fixed: dict[str, Any] = {"freeDimensionOverrides": sizes} if self._static else {}
        if self._plan.platform == "webgpu" and self._specs[graph].cache:
            fixed["preferredOutputLocation"] = {
                t.name: "gpu-buffer" for t in self._specs[graph].outputs if t.name.startswith(PRESENT)
            }
        return {
            "executionProviders": [provider],
            "graphOptimizationLevel": about["optimise"],
            "extra": self._extra,
            **fixed,
        }

    def _webnn_type(self) -> str:
        """The best device type of WebNN that really executes on what it says; else whichever executes."""
        if not self._device_type:
            found, _ = self._call("probe", what="webnn", timeout=30)
            types = {name: fact for name, fact in found["types"].items() if fact["executes"]}
            if not types:
                raise UnavailableError(
                    f"{self.browser.kind} ({self.browser.path}) has no WebNN: {found['reason']}",
                    "set hardware.browser to one that has, or use --hw webgpu",
                )
            true = [name for name, fact in types.items() if name in (fact["devices"] or ())]
            self._device_type = (true or list(types))[0]
        return self._device_type

    def execution(self) -> dict[str, Any]:
        """See `Session.execution`. Also `browser`, `provider`, `nodes` by provider, `adapter` and `webnn_devices`."""
        return described(self.browser, self._page.agent if self._page else "", self._plan.platform, self._opened)

    def close(self) -> None:
        """Closes the sessions; the page stays for the next one."""
        if self._page is not None:
            for name in self._open.values():
                with contextlib.suppress(BrowserLost, AccelError):
                    self._call("close", name=name)
        self._open.clear()


def _browser(plan: Plan, family: str) -> Browser:
    """The browser of a device; for WebAssembly the one that the rule for this family says."""
    if audience.current.mode == "wait":
        return audience.VISITOR
    here = find(wanted=chosen())
    kind = plan.device.partition(":")[2]
    if plan.platform == "cpu" and here:
        kind, _ = by_rule([browser.kind for browser in here], family)
    for browser in here:
        if browser.kind == kind:
            return browser
    raise UnavailableError(f"the browser of {plan.device} is no longer here", "accel detect shows browsers")
