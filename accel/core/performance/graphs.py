"""The operator graph of a workload: from what was kept, else traced from the model's configuration and kept.

A graph that is kept costs a file to read: no torch, no numpy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from accel.core import memory
from accel.core.digest import of_values
from accel.core.errors import AccelError, InputError
from accel.core.fingerprint import engine_version
from accel.core.performance.operators import OperatorGraph
from accel.core.performance.templates import Template
from accel.core.probe import read_text
from accel.core.types import Model, Options, Weights

if TYPE_CHECKING:
    from accel.core.performance.onnx_tracing import OnnxTracer
    from accel.core.performance.tracing import Tracer

#: raised when the meaning of what is kept changes
VERSION = 7
#: tokens that decoders generate, as `accel bench` has them do
NEW_TOKENS = 32
#: tokens of a text where nobody says
DEFAULT_LENGTH = 128
#: families whose length counts tokens, so that sizes are polynomials of it
TEXT = ("text-encoder", "text-decoder")
#: (batch, length) of the traces that a template is made from, best first; a length of 0 stands for the wanted one
_BOTH = (((1, 16), (3, 16), (1, 24), (3, 24), (2, 40)), ((2, 16), (3, 16), (2, 24), (3, 24), (5, 40)))
_SINGLE = ((1, 16), (1, 24), (1, 40))
_BATCHES = ((1, 0), (3, 0), (2, 0)), ((2, 0), (3, 0), (5, 0))
#: a decoder with more layers than this is traced with two smaller numbers of them, if its layers are all equal
DEEP, FEW = 12, (2, 4)
#: how configurations call the number of layers, and what says that layers differ
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_UNEQUAL = ("first_k_dense_replace", "mlp_only_layers", "decoder_sparse_step", "no_rope_layers", "block_types")
#: files that decide which operators a model has
_DECISIVE = ("config.json", "modules.json", "preprocessor_config.json", "sentence_bert_config.json")


def resolve(name: str, task: str | None = None, revision: str | None = None, *, code: bool = False) -> Model:
    """Finds a model by its configuration alone; a file that is a model (ONNX) is taken whole.

    Raises:
        InputError, IncompatibleError, UnavailableError, TransferError: as `accel.core.models.resolve`.
    """
    from accel.core import models

    def find(weights: Weights) -> Model:
        return models.resolve(name, revision=revision, task=task, weights=weights, trust_remote_code=code)

    try:
        return find("random")
    except InputError as error:
        # what exists as ONNX only has no configuration to make it from
        try:
            found = find("pretrained")
        except AccelError:
            raise error from None
        if found.layout != "onnx":
            raise
        return found


def graph_of(
    model: Model,
    batch: int = 1,
    length: int | None = None,
    new_tokens: int = NEW_TOKENS,
    show: Callable[[str], None] = lambda _: None,
    steps: int | None = None,
) -> OperatorGraph:
    """The operators of one execution of a model.

    Args:
        model: resolved, with or without weights; they are not read.
        batch: inputs executed together.
        length: tokens of a text or samples of a sound; None for `DEFAULT_LENGTH` tokens (fewer if the model takes
            fewer), or the task's own example where the input is no text.
        new_tokens: that a decoder generates.
        show: told about slow steps.
        steps: of diffusion; None for the model's own number.

    Raises:
        InputError: sizes that the model does not take, or a configuration that makes no model.
        IncompatibleError: its operators cannot be found without running it. UnavailableError: a library is missing.
    """
    if batch < 1 or (length is not None and length < 1) or new_tokens < 1:
        raise InputError("batch, length and new tokens are numbers above 0", "--batch 1 --seq 128")
    kept = _Kept(model, new_tokens, steps, show)
    try:
        if length is None and model.family in TEXT and model.layout != "onnx":
            room = kept.capacity()
            left = None if room is None else room - (new_tokens if model.family == "text-decoder" else 0)
            length = DEFAULT_LENGTH if left is None else max(1, min(DEFAULT_LENGTH, left))
        kept.check(length)
        template = kept.template(batch, length)
    finally:
        kept.close()
    return kept.graph(template, batch, length)


def known(model: Model, batch: int, length: int | None, new_tokens: int = NEW_TOKENS) -> OperatorGraph | None:
    """The graph if it was found before, at the cost of reading a file; None where it would have to be traced."""
    kept = _Kept(model, new_tokens, None, lambda _: None)
    if kept.about is None:
        return None
    template = kept.found(batch, length)
    return None if template is None else kept.graph(template, batch, length)


class _Kept:
    """Templates of one model, kept between processes."""

    def __init__(self, model: Model, new_tokens: int, steps: int | None, show: Callable[[str], None]) -> None:
        identity = identity_of(model)
        if model.layout != "onnx":
            model = dataclasses.replace(model, weights="random")
        self._model, self._new_tokens, self._steps, self._show = model, new_tokens, steps, show
        libraries = [engine_version("torch"), engine_version("transformers"), engine_version("diffusers")]
        trusted = bool(model.entry.get("trust_remote_code"))
        self._key = f"{VERSION}|{identity}|{model.family}|{model.task}|{new_tokens}|{steps}|{trusted}|{libraries}"
        self.about: dict[str, Any] | None = memory.recall("graphs", self._key)
        self._tracer: Tracer | OnnxTracer | None = None
        self._shallow: list[Tracer] = []

    def tracer(self) -> Tracer | OnnxTracer:
        """The model without weights, made when first needed."""
        if self._tracer is None:
            self._show(f"finding the operators of {self._model.name}")
            tracer: Tracer | OnnxTracer
            if self._model.layout == "onnx":
                from accel.core.performance.onnx_tracing import OnnxTracer

                tracer = OnnxTracer(self._model)
            else:
                from accel.core.performance.tracing import Tracer

                tracer = Tracer(self._model)
            self._tracer = tracer
            self.about = {
                "weights_bytes": tracer.weights_bytes,
                "capacity": _capacity(tracer.recipe.settings),
                "graphs": list(tracer.recipe.graphs),
                "notes": list(tracer.recipe.notes),
            }
            memory.keep("graphs", self._key, self.about)
        return self._tracer

    def close(self) -> None:
        """Removes what the tracer left."""
        for tracer in (self._tracer, *self._shallow):
            if tracer is not None:
                tracer.close()

    def capacity(self) -> int | None:
        """The most tokens that the model takes, or None."""
        if self.about is None:
            self.tracer()
        assert self.about is not None
        found = self.about["capacity"]
        return None if found is None else int(found)

    def check(self, length: int | None) -> None:
        """Refuses a length that the model does not take."""
        room = self.capacity()
        text = self._model.family in TEXT
        wanted = (length or 0) + (self._new_tokens if self._model.family == "text-decoder" else 0)
        if text and length is not None and room is not None and wanted > room:
            both = f" and {self._new_tokens} new ones" if self._model.family == "text-decoder" else ""
            raise InputError(
                f"{self._model.name} takes at most {room} tokens, and {length}{both} were asked for", "a shorter --seq"
            )

    def _keys(self, length: int | None) -> list[str]:
        any_length = [f"{self._key}|any"] if self._model.family in TEXT and length is not None else []
        return [*any_length, f"{self._key}|{length}"]

    def found(self, batch: int, length: int | None) -> Template | None:
        """The template for a workload, if there is one already."""
        ready = (template for key in self._keys(length) for template in self._read(key))
        return next((template for template in ready if template.fits(batch, length)), None)

    def graph(self, template: Template, batch: int, length: int | None) -> OperatorGraph:
        """The graph of a workload that the template fits."""
        operators, peaks, cache = template.at(batch, length)
        model, about = self._model, self.about
        assert about is not None
        return OperatorGraph(
            model=model.name,
            digest=model.digest,
            family=model.family,
            task=model.task,
            batch=batch,
            length=length,
            operators=operators,
            weights_bytes=about["weights_bytes"],
            peak_bytes=peaks,
            calls=dict(template.calls),
            cache_bytes=cache,
            new_tokens=self._new_tokens if "decode" in peaks else 0,
            graphs=tuple(about["graphs"]),
            notes=tuple(about["notes"]),
        )

    def template(self, batch: int, length: int | None) -> Template:
        """The template for a workload."""
        ready = self.found(batch, length)
        if ready is not None:
            return ready
        text, keys = self._model.family in TEXT and length is not None, self._keys(length)
        room = self.capacity()
        least = 40 + (self._new_tokens if self._model.family == "text-decoder" else 0)
        if text and (room is None or room >= least):
            found = list(self._made(_BOTH, _SINGLE, None))
            if found:
                self._write(keys[0], found)
                return next(t for t in found if t.fits(batch, length))
        found = list(self._made(_BATCHES, ((1, 0),), length))
        if not any(t.fits(batch, length) for t in found):
            found = [*self._read(keys[-1]), self._fit(((batch, 0),), length)]  # type: ignore[list-item]
        self._write(keys[-1], found)
        return next(t for t in found if t.fits(batch, length))

    def _made(self, many: Any, single: Any, length: int | None) -> Iterator[Template]:
        """One template for all batches, or one for a single input and one for the others; nothing if neither works."""
        template = self._fit(many[0], length)
        if template is not None:
            yield template
            return
        alone, together = self._fit(single, length), self._fit(many[1], length)
        if alone is not None and together is not None:
            yield alone
            yield together

    def _fit(self, points: Any, length: int | None) -> Template | None:
        from accel.core.performance import templates

        options = Options(max_new_tokens=self._new_tokens, steps=self._steps)

        def of(tracer: Tracer | OnnxTracer) -> Template | None:
            return templates.fit([tracer.workload(b, n or length, options) for b, n in points])

        depth = layers_of(self._model)
        if depth is not None and depth > DEEP:
            few, more = (of(tracer) for tracer in self._with_fewer())
            whole = None if few is None or more is None else templates.with_layers(few, more, FEW, depth)
            if whole is not None:
                return whole
        return of(self.tracer())

    def _with_fewer(self) -> list[Tracer]:
        """The model with each of the `FEW` numbers of layers."""
        from accel.core.performance.tracing import Tracer

        if not self._shallow:
            self._shallow = [Tracer(shallow(self._model, count)) for count in FEW]
        return self._shallow

    def _read(self, key: str) -> list[Template]:
        data = memory.recall("graphs", key)
        return [Template.from_json(one) for one in data["templates"]] if data else []

    def _write(self, key: str, found: list[Template]) -> None:
        memory.keep("graphs", key, {"templates": [template.as_json() for template in found]})


def identity_of(model: Model) -> str:
    """What stands for the operators of a model: its configuration, so that weights make no difference."""
    if model.layout not in ("transformers", "diffusers") or model.folder is None:
        return model.digest
    names = sorted(name for name in model.files if name.rpartition("/")[2] in _DECISIVE)
    texts = [(name, read_text(str(model.folder / name))) for name in names]
    return of_values(model.layout, model.config, texts)


def layers_of(model: Model) -> int | None:
    """How many equal layers a decoder has; None for other models, and where layers may differ."""
    config = model.config
    if model.family != "text-decoder" or model.weights != "random" or any(key in config for key in _UNEQUAL):
        return None
    if len(set(config.get("layer_types") or ("same",))) > 1:
        return None
    found = next((config[key] for key in _LAYERS if key in config), None)
    return found if isinstance(found, int) else None


def shallow(model: Model, layers: int) -> Model:
    """The same model with fewer layers."""
    config = dict(model.config)
    for key in _LAYERS:
        if key in config:
            config[key] = layers
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:layers]
    return dataclasses.replace(model, config=config)


def _capacity(settings: dict[str, Any]) -> int | None:
    """The most tokens that a text model takes, from its recipe."""
    found = settings.get("positions") or settings.get("tokenizer", {}).get("max_length")
    return int(found) if found else None
