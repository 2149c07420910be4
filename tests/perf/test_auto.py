"""What `--hw auto` loses against measuring everything, and what accel adds to one inference.

`pytest -m perf -s tests/perf/test_auto.py` prints both.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel.core import prepared
from accel.core.errors import AccelError
from accel.core.evidence import Shape
from accel.core.models import resolve
from accel.core.planner import Wish, candidates, choose
from accel.core.registry import engine, family_class
from accel.core.source import ModelSource
from accel.core.types import Item, Model, Options, Plan, Recipe
from accel.core.worker import Worker, to_json

pytestmark = [pytest.mark.perf, pytest.mark.timeout(3000)]

DEVICES = (("openvino", "openvino:CPU"), ("cpu", "cpu:0"))
SMALL = {
    "bert": {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4, "intermediate_size": 1024, "vocab_size": 8000,
    },
    "vit": {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 192, "num_hidden_layers": 6,
        "num_attention_heads": 3, "intermediate_size": 768,
    },
    "resnet": {
        "model_type": "resnet", "architectures": ["ResNetForImageClassification"], "depths": [2, 2, 2, 2],
        "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64,
    },
    "wav2vec2": {
        "model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_size": 192, "num_hidden_layers": 4,
        "num_attention_heads": 3, "intermediate_size": 768,
    },
}  # fmt: skip


def model_of(name: str, folder: Path) -> Model:
    """A catalogue model, or a random one of `SMALL`."""
    if name not in SMALL:
        return resolve(name)
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(SMALL[name]))
    return resolve(str(folder / name), weights="random")


def batch_of(recipe: Recipe, assets: Path, shape: Shape, bytewise: bool) -> list[Item]:
    """Inputs of a shape: the task's example, or texts of about so many tokens."""
    example = family_class(recipe.family)(recipe, assets).example_items()[0]
    if recipe.family == "text-encoder":
        # the random ones read bytes, for want of a vocabulary
        word = "x" if bytewise else "word "
        example = Item(0, text=word * max(1, shape.length - 2))
    return [dataclasses.replace(example, index=k) for k in range(shape.batch)]


def exhaustive(
    model: Model, items: list[Item], plans: list[Plan], processes: int = 3, rounds: int = 4
) -> dict[str, float]:
    """Median time of every candidate that opens, over processes that are timed long and in turn."""
    samples: dict[str, list[float]] = {}
    for number in range(processes):
        workers: dict[str, Worker] = {}
        try:
            for plan in plans:
                if number and plan.key not in samples:
                    continue
                workers[plan.key] = worker = Worker(model, items)
                try:
                    worker.call("open", plan=to_json(plan), timeout=300)
                    worker.call("measure", seconds=0.3, timeout=300)
                except AccelError as error:  # a candidate that does not open is no rival
                    print(f"  {plan.key}: {error}")
                    workers.pop(plan.key).close()
            for _ in range(rounds):
                for key, worker in workers.items():
                    samples.setdefault(key, []).extend(worker.call("measure", seconds=0.3, timeout=300)["samples"])
        finally:
            for worker in workers.values():
                worker.close()
    return {key: statistics.median(times) for key, times in samples.items()}


CASES = [
    *(
        (name, Shape(batch, length))
        for name in ("all-minilm", "bert")
        for batch, length in ((1, 16), (1, 128), (16, 64))
    ),
    *((name, Shape(batch, 1)) for name in ("efficientnet-lite0", "vit", "resnet", "wav2vec2") for batch in (1, 4, 16)),
]


def test_regret_of_auto(tmp_path: Path) -> None:
    regrets = []
    for name, shape in CASES:
        model = model_of(name, tmp_path)
        source = ModelSource(model)
        items = batch_of(source.recipe, source.assets, shape, name in SMALL)
        wish = Wish(DEVICES)
        # the trial must not profit from another shape's evidence
        for path in (prepared.home() / "plans").glob("*.json"):
            path.unlink()
        plan = choose(model, source.recipe, items, Options(), shape, wish, None)
        plans, _ = candidates(source.recipe, wish)
        if plan.threads:
            plans.append(dataclasses.replace(plan, source="requested"))
        times = exhaustive(model, items, [p for p in plans if engine(p.engine).missing_on(p.platform) is None])
        regret = times[plan.key] / min(times.values()) - 1
        regrets.append(regret)
        shown = ", ".join(f"{key} {1000 * value:.2f} ms" for key, value in sorted(times.items(), key=lambda t: t[1]))
        print(f"\n{name} batch {shape.batch} length {shape.length}: regret {100 * regret:.1f} %  [{plan.key}]  {shown}")
    print(f"\nregret of auto: median {100 * statistics.median(regrets):.1f} %, worst {100 * max(regrets):.1f} %")
    assert statistics.median(regrets) <= 0.03
    assert max(regrets) <= 0.15


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def test_what_accel_adds_to_one_inference() -> None:
    model = resolve("all-minilm")
    source = ModelSource(model)
    plan = Plan("cpu:0", "cpu", "onnxruntime", "fp32")
    chosen = engine("onnxruntime")
    folder = prepared.keep(model, plan, lambda empty: chosen.prepare(source, plan, empty))
    session: Any = chosen.load(folder, source.recipe, plan)
    family = source.family()
    options = Options()
    batch = family.preprocess_inputs([Item(0, text="word " * 126)], options)
    feeds: dict[str, Any] = {}

    class Spy:
        def run(self, graph: str, given: dict[str, Any]) -> dict[str, Any]:
            feeds.update(given)
            result: dict[str, Any] = session.run(graph, given)
            return result

    family.execute(Spy(), batch, options)  # type: ignore[arg-type]
    bare, names = session.sessions["model"], [o.name for o in session.sessions["model"].get_outputs()]
    ours: list[float] = []
    theirs: list[float] = []

    def answer() -> Any:
        return family.postprocess_outputs(family.execute(session, batch, options), batch, options)

    # which of the two comes first alternates, since the first of a pair meets a machine that was idle for longer
    for number in range(300):
        pair = [(ours, answer), (theirs, lambda: bare.run(names, feeds))]
        for samples, call in pair if number % 2 else reversed(pair):
            samples.append(timed(call))
    added = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
    share = added / statistics.median(theirs)
    print(f"\naccel adds {1000 * added:.3f} ms to {1000 * statistics.median(theirs):.2f} ms: {100 * share:.2f} %")
    assert added < 0.0003
