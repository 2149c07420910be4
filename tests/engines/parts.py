"""Small real models as torch graphs, and a `Source` over them, for the tests of the engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accel.core.contracts import LoadedModel, Source, TorchGraph
from accel.core.export import export
from accel.core.types import GraphSpec, Model, Recipe, TensorSpec


class GraphSource(Source):
    """A model that is one or more torch graphs; exports are kept in `folder`."""

    def __init__(self, graphs: dict[str, TorchGraph], folder: Path, family: str = "text-encoder") -> None:
        self.graphs = graphs
        self.folder = folder
        self.recipe = Recipe(family, "feature-extraction", {n: g.spec for n, g in graphs.items()}, {})
        self.model = Model("parts", "catalogue", None, (), "transformers", {}, family, "", "random", "0" * 64)

    def torch(self) -> LoadedModel:
        return LoadedModel(self.graphs, self.recipe)

    def onnx(self, graph: str) -> Path:
        path = self.folder / f"{graph}.onnx"
        if not path.exists():
            export(self.graphs[graph], path)
        return path

    def calibration(self, graph: str) -> Iterator[dict[str, Any]]:
        import numpy as np

        example = self.graphs[graph].example
        rng = np.random.default_rng(0)
        for _ in range(16):
            feeds = {}
            for name, tensor in example.items():
                value = tensor.numpy()
                if np.issubdtype(value.dtype, np.floating):
                    feeds[name] = rng.standard_normal(value.shape).astype(value.dtype)
                elif name == "input_ids":
                    feeds[name] = rng.integers(1, 90, value.shape, dtype=value.dtype)
                else:
                    feeds[name] = value
            yield feeds


def feeds_of(graph: TorchGraph) -> dict[str, Any]:
    """The example of a graph as numpy arrays."""
    return {name: tensor.numpy() for name, tensor in graph.example.items()}


def bert(hidden: int = 32, layers: int = 2) -> dict[str, TorchGraph]:
    """A BERT encoder with random weights: ids and mask in, last hidden state out."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        vocab_size=99,
        max_position_embeddings=64,
        # large enough that attention and outputs differ from token to token
        initializer_range=0.3,
    )
    model = BertModel(config, add_pooling_layer=False).eval()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> tuple[Any, ...]:
            return (self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state,)

    spec = GraphSpec(
        "model",
        (
            TensorSpec("input_ids", "int64", ("batch", "length")),
            TensorSpec("attention_mask", "int64", ("batch", "length")),
        ),
        (TensorSpec("last_hidden_state", "float32", ("batch", "length", hidden)),),
    )
    ids = torch.randint(1, 99, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"model": TorchGraph(spec, Encoder().eval(), {"input_ids": ids, "attention_mask": mask})}


def decoder() -> dict[str, TorchGraph]:
    """A Llama with grouped-query attention and random weights, as its family makes its graph."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from accel.families._decoder_graph import decoder_graph

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=99,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return {"model": decoder_graph(AutoModelForCausalLM.from_config(config).eval(), "llama", 99)}


def one(module: Any, axes: tuple[int | str, ...] = ("batch", "length"), dtype: str = "float32") -> TorchGraph:
    """A module from one tensor `x` to one tensor `y` of the same shape, as a graph. Example: 2 by 6, normal numbers."""
    import torch

    shape = [n if isinstance(n, int) else {"batch": 2}.get(n, 6) for n in axes]
    torch.manual_seed(0)
    example = torch.randn(shape) if dtype == "float32" else torch.randint(0, 9, shape)
    spec = GraphSpec("model", (TensorSpec("x", dtype, axes),), (TensorSpec("y", dtype, axes),))
    return TorchGraph(spec, module.eval(), {"x": example})


def worst(found: Any, expected: Any) -> float:
    """Largest difference relative to the largest expected number."""
    import numpy as np

    return float(np.abs(found - expected).max() / np.abs(expected).max())


def cosine(found: Any, expected: Any) -> float:
    """Lowest cosine over the rows of two arrays (batch, ...)."""
    from accel.core.agreement import agreement

    return float(agreement(found, expected)["cosine"])


def cnn() -> dict[str, TorchGraph]:
    """A ResNet with random weights: pixels in, logits out."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=7)
    model = ResNetForImageClassification(config).eval()

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> tuple[Any, ...]:
            return (self.model(pixel_values=pixel_values).logits,)

    spec = GraphSpec(
        "model",
        (TensorSpec("pixel_values", "float32", ("batch", 3, 64, 64)),),
        (TensorSpec("logits", "float32", ("batch", 7)),),
    )
    return {"model": TorchGraph(spec, Classifier().eval(), {"pixel_values": torch.randn(2, 3, 64, 64)})}
