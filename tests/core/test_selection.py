"""Which files make up a model, by the layouts that are found in the wild."""

from __future__ import annotations

import re

import pytest

from accel.core.errors import InputError
from accel.core.selection import select

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


def test_one_of_five_forms_of_the_same_weights() -> None:
    names = [
        "config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot",
        "model.fp16.safetensors", "onnx/model.onnx", "onnx/model_quantized.onnx", "openvino/openvino_model.bin",
        "coreml/fill-mask/float32_model.mlpackage/Data/weights.bin", "README.md", "LICENSE", ".gitattributes",
        "training_args.bin", "trainer_state.json", "eval_results.json", "model.ckpt.index", *TOKENIZER,
    ]  # fmt: skip
    found = select(names, "it")
    assert found.layout == "transformers"
    assert found.weights == ("model.safetensors",)
    assert set(found.files) == {"config.json", "model.safetensors", *TOKENIZER}
    assert set(found.without_weights) == {"config.json", *TOKENIZER}


def test_pickles_only_where_there_is_nothing_better() -> None:
    assert select(["config.json", "pytorch_model.bin", "tf_model.h5"], "it").weights == ("pytorch_model.bin",)


def test_shards_with_their_index() -> None:
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    names = ["config.json", "generation_config.json", "model.safetensors.index.json", *shards]
    assert set(select(names, "it").weights) == {"model.safetensors.index.json", *shards}
    both = [*names, "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]
    assert set(select(both, "it").weights) == {"model.safetensors.index.json", *shards}
    with pytest.raises(InputError, match="2 of the 3 parts"):
        select([name for name in names if name != shards[1]], "it")
    with pytest.raises(InputError, match=re.escape("no model.safetensors.index.json")):
        select([name for name in names if not name.endswith("index.json")], "it")


def test_sentence_transformers_modules() -> None:
    names = [
        "config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "onnx/model.onnx",
        "3_Normalize/README.md",
    ]  # fmt: skip
    found = select(names, "it")
    assert set(found.files) == {
        "config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors",
    }  # fmt: skip
    assert found.weights == ("model.safetensors",)


def test_diffusers_takes_one_form_of_each_component() -> None:
    names = [
        "model_index.json", "README.md", "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.bin", "vae/diffusion_flax_model.msgpack",
        "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin",
        "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json", "onnx/unet.onnx",
    ]  # fmt: skip
    found = select(names, "it")
    assert found.layout == "diffusers"
    assert set(found.weights) == {
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "text_encoder/model.safetensors",
    }  # fmt: skip
    assert set(found.without_weights) == {
        "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/vocab.json",
        "tokenizer/merges.txt", "scheduler/scheduler_config.json",
    }  # fmt: skip


def test_onnx_and_gguf() -> None:
    optimum = ["config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_fp16.onnx"]
    found = select(optimum, "it")
    assert (found.layout, found.weights) == ("onnx", ("onnx/model.onnx", "onnx/model.onnx_data"))
    assert select(["a.onnx", "readme.txt"], "it").weights == ("a.onnx",)
    with pytest.raises(InputError, match=r"2 ONNX models: a\.onnx, b\.onnx") as caught:
        select(["a.onnx", "b.onnx"], "it")
    assert "it/a.onnx" in caught.value.hint
    assert select(["a.onnx", "b.onnx"], "it", only="b.onnx").weights == ("b.onnx",)
    assert select(["x.Q4_K_M.gguf", "config.json"], "it").layout == "gguf"
    with pytest.raises(InputError, match="2 GGUF models"):
        select(["x.Q4_K_M.gguf", "x.Q8_0.gguf"], "it")
    chosen = select(["x.Q4_K_M.gguf", "x.Q8_0.gguf", "config.json"], "it", only="x.Q8_0.gguf")
    assert chosen.files == ("x.Q8_0.gguf",)


def test_code_is_taken_only_when_asked_for() -> None:
    names = ["config.json", "model.safetensors", "modeling.py", "sub/evil.py"]
    assert "modeling.py" not in select(names, "it").files
    assert set(select(names, "it", code=True).files) == {"config.json", "model.safetensors", "modeling.py"}


def test_what_is_no_model() -> None:
    with pytest.raises(InputError, match="holds no model"):
        select([], "it")
    with pytest.raises(InputError, match="holds no model"):
        select(["train.csv", "model.safetensors"], "it")
    with pytest.raises(InputError, match="an adapter"):
        select(["adapter_config.json", "adapter_model.safetensors"], "it")


def test_why_there_are_no_weights() -> None:
    assert select(["config.json", "tf_model.h5"], "it").reason == "its weights are for TensorFlow only (tf_model.h5)"
    assert "no weights" in select(["config.json"], "it").reason
    assert "Flax" in select(["model_index.json", "unet/diffusion_flax_model.msgpack"], "it").reason
