from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.core.decoding import NotANumber
from accel.core.errors import IncompatibleError, InputError
from accel.core.registry import family_class
from accel.core.types import Item, Options
from accel.families._shared import EXAMPLE_IMAGE
from tests.families.running import Running, folder_model, random_model

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 400,
    "max_position_embeddings": 60,
    "bos_token_id": 390,
    "eos_token_id": 391,
    "pad_token_id": 1,
}
CLIP = {"model_type": "clip", "vision_config": VISION, "text_config": TEXT, "projection_dim": 24}
SIGLIP = {"model_type": "siglip", "vision_config": VISION, "text_config": TEXT}
BLIP = {
    "model_type": "blip",
    "vision_config": VISION,
    "text_config": {
        **TEXT,
        "pad_token_id": 0,
        "sep_token_id": 392,
        "encoder_hidden_size": 32,
        "initializer_range": 0.4,
    },
    "projection_dim": 24,
}
LLAVA = {
    "model_type": "llava",
    "vision_config": {**VISION, "model_type": "clip_vision_model", "projection_dim": 24},
    "text_config": {
        "model_type": "llama",
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 300,
        "initializer_range": 0.4,
    },
    "image_token_index": 395,
    "vision_feature_layer": -2,
}


def picture(name: str) -> str:
    import skimage

    return str(Path(skimage.__file__).parent / "data" / name)


IMAGES = ("chelsea.png", "rocket.jpg")


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "clip"}, "zero-shot-image-classification"),
        ({"model_type": "siglip"}, "zero-shot-image-classification"),
        ({"model_type": "blip"}, "image-to-text"),
        ({"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]}, "visual-question-answering"),
        ({"model_type": "llava"}, "image-text-to-text"),
        ({"model_type": "vit"}, None),
        ({"onnx": {"inputs": ["x"], "outputs": ["y"]}}, None),
    ],
)
def test_the_task_follows_from_the_configuration(config: dict[str, Any], task: str | None) -> None:
    assert family_class("multimodal").infer_task(config) == task


class TestContrast:
    labels = ("a cat", "a rocket on its way", "coffee")

    def items(self) -> list[Item]:
        return [Item(i, image=picture(name), texts=self.labels) for i, name in enumerate(IMAGES)]

    @pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=["clip", "siglip"])
    def test_scores_equal_transformers(self, tmp_path: Path, config: dict[str, Any]) -> None:
        import torch

        running = Running(random_model("multimodal", "zero-shot-image-classification", config), tmp_path / "m")
        batch = running.encode(self.items())
        feeds = running.family.part._feeds(batch[0].texts)  # type: ignore[attr-defined]
        pixels = torch.from_numpy(np.stack([pair.picture.pixels for pair in batch]))
        with torch.no_grad():
            tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
            logits = running.loaded.module(pixel_values=pixels, **tensors).logits_per_image
        expected = logits.sigmoid() if config is SIGLIP else logits.softmax(-1)
        for row, answer in zip(expected, running.answer(self.items()), strict=True):
            scores = {entry["label"]: entry["score"] for entry in answer["labels"]}
            assert scores == pytest.approx(dict(zip(self.labels, row.tolist(), strict=True)), abs=1e-5)
        assert len({round(float(s), 7) for s in expected[0]}) == 3

    def test_the_pipeline_of_transformers_gives_the_same(self, tmp_path: Path) -> None:
        import torch
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, pipeline

        letters = "abcdefghijklmnopqrstuvwxyz."
        vocab = {c: i for i, c in enumerate(letters)} | {f"{c}</w>": 100 + i for i, c in enumerate(letters)}
        tokenizer = CLIPTokenizer(vocab=vocab | {"<|startoftext|>": 390, "<|endoftext|>": 391}, merges=[])
        from transformers import CLIPConfig

        torch.manual_seed(4)
        module = CLIPModel(CLIPConfig(**{k: v for k, v in CLIP.items() if k != "model_type"})).eval()
        processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64)
        for part in (module, tokenizer, processor):
            part.save_pretrained(tmp_path / "clip")
        running = Running(
            folder_model("multimodal", "zero-shot-image-classification", tmp_path / "clip"), tmp_path / "m"
        )
        assert not running.recipe.notes
        theirs = pipeline(
            "zero-shot-image-classification", model=module, tokenizer=tokenizer, image_processor=processor
        )
        for item, answer in zip(self.items(), running.answer(self.items()), strict=True):
            expected = theirs(item.image, candidate_labels=list(self.labels))
            assert [e["label"] for e in expected] == [e["label"] for e in answer["labels"]]
            assert [e["score"] for e in expected] == pytest.approx([e["score"] for e in answer["labels"]], abs=1e-5)

    def test_embeddings_of_images_and_texts_have_length_one(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "image-text-embedding", CLIP), tmp_path / "m")
        answers = running.answer([Item(0, image=picture(IMAGES[0])), Item(1, text="a cat"), Item(2, text="a dog")])
        vectors = np.array([answer["embedding"] for answer in answers])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.abs(vectors[1] - vectors[2]).max() > 1e-4
        (error,) = running.family.preprocess_inputs([Item(0)], Options())
        assert isinstance(error, InputError)

    @pytest.mark.slow
    @pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=["clip", "siglip"])
    def test_the_export_agrees_with_torch(self, tmp_path: Path, config: dict[str, Any]) -> None:
        running = Running(random_model("multimodal", "zero-shot-image-classification", config), tmp_path / "m")
        expected = running.comparable(self.items())
        running.session = running.onnx()
        np.testing.assert_allclose(running.comparable(self.items()), expected, atol=1e-4)

    def test_texts_are_encoded_once(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "zero-shot-image-classification", CLIP), tmp_path / "m")
        calls: list[int] = []
        run = running.session.run

        def counted(graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
            calls.extend([len(feeds["input_ids"])] if graph == "text" else [])
            return run(graph, feeds)

        running.session.run = counted  # type: ignore[method-assign]
        first, again = running.answer(self.items()), running.answer(self.items())
        assert first == again
        assert calls == [3]

    def test_wrong_inputs_are_errors(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "zero-shot-image-classification", CLIP), tmp_path / "m")
        items = [Item(0, image=picture(IMAGES[0])), Item(1, texts=("a",)), Item(2, image="none.png", texts=("a",))]
        items.append(Item(3, image=picture(IMAGES[0]), texts=("x" * 80,)))
        encoded = running.family.preprocess_inputs(items, Options())
        assert all(isinstance(e, InputError) for e in encoded)
        assert "--candidate" in encoded[0].hint

    def test_nan_weights_are_said_not_hidden(self, tmp_path: Path) -> None:
        import torch

        running = Running(random_model("multimodal", "zero-shot-image-classification", CLIP), tmp_path / "m")
        with torch.no_grad():
            running.loaded.module.visual_projection.weight.fill_(float("nan"))
        with pytest.raises(NotANumber):
            running.answer(self.items())


class TestCaptions:
    def test_captions_equal_transformers_generate(self, tmp_path: Path) -> None:
        import torch

        running = Running(random_model("multimodal", "image-to-text", BLIP), tmp_path / "m")
        batch = running.encode([Item(i, image=picture(name)) for i, name in enumerate(IMAGES)])
        pixels = torch.from_numpy(np.stack([look.picture.pixels for look in batch]))
        with torch.no_grad():
            ids = running.loaded.module.generate(pixels, max_new_tokens=15, do_sample=False).tolist()
        outputs = running.family.execute(running.session, batch, Options(max_new_tokens=15))
        for row, (generated, _) in zip(ids, outputs, strict=True):
            expected = [t for t in row[1:] if t != 0]
            if 392 in expected:
                expected = expected[: expected.index(392)]
            assert generated.tokens == expected
        assert len(set(outputs[0][0].tokens)) > 3

    def test_a_caption_can_be_begun(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "image-to-text", BLIP), tmp_path / "m")
        (answer,) = running.answer([Item(image=picture(IMAGES[0]), text="a photo of")], Options(max_new_tokens=4))
        assert answer["text"].startswith("a photo of")
        assert answer["new_tokens"] <= 4

    def test_answers_equal_transformers_generate(self, tmp_path: Path) -> None:
        import torch

        running = Running(random_model("multimodal", "visual-question-answering", BLIP), tmp_path / "m")
        items = [
            Item(i, image=picture(n), text=t)
            for i, (n, t) in enumerate(zip(IMAGES, ("what?", "how many?"), strict=True))
        ]
        batch = running.encode(items)
        outputs = running.family.execute(running.session, batch, Options(max_new_tokens=10))
        for look, (generated, _) in zip(batch, outputs, strict=True):
            with torch.no_grad():
                ids = running.loaded.module.generate(
                    input_ids=torch.tensor([look.tokens.ids]),
                    pixel_values=torch.from_numpy(look.picture.pixels)[None],
                    max_new_tokens=10,
                    do_sample=False,
                )[0].tolist()
            expected = [t for t in ids[1:] if t != 0]
            if 392 in expected:
                expected = expected[: expected.index(392)]
            assert generated.tokens == expected

    @pytest.mark.parametrize(
        "task", ["image-to-text", pytest.param("visual-question-answering", marks=pytest.mark.slow)]
    )
    def test_the_export_agrees_with_torch(self, tmp_path: Path, task: str) -> None:
        running = Running(random_model("multimodal", task, BLIP), tmp_path / "m")
        expected, answers = running.comparable(), running.answer(options=Options(max_new_tokens=6))
        running.session = running.onnx()
        np.testing.assert_allclose(running.comparable(), expected, atol=1e-3)
        assert running.answer(options=Options(max_new_tokens=6)) == answers

    def test_wrong_inputs_are_errors(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "visual-question-answering", BLIP), tmp_path / "m")
        items = [Item(0, image=str(EXAMPLE_IMAGE)), Item(1, text="what?"), Item(2, image="none.png", text="what?")]
        assert all(isinstance(e, InputError) for e in running.family.preprocess_inputs(items, Options()))


class TestLlava:
    def items(self) -> list[Item]:
        return [
            Item(i, image=picture(n), text=t)
            for i, (n, t) in enumerate(zip(IMAGES, ("what?", "is it red?"), strict=True))
        ]

    def test_texts_equal_transformers_generate(self, tmp_path: Path) -> None:
        import torch

        running = Running(random_model("multimodal", "image-text-to-text", LLAVA), tmp_path / "m")
        batch = running.encode(self.items())
        assert all(question.ids.count(395) == 16 for question in batch)
        outputs = running.family.execute(running.session, batch, Options(max_new_tokens=10))
        for question, generated in zip(batch, outputs, strict=True):
            with torch.no_grad():
                ids = running.loaded.module.generate(
                    input_ids=torch.tensor([question.ids]),
                    pixel_values=torch.from_numpy(question.picture.pixels)[None],
                    attention_mask=torch.ones((1, question.length), dtype=torch.int64),
                    max_new_tokens=10,
                    do_sample=False,
                )[0, question.length :].tolist()
            assert generated.tokens == [t for t in ids if t != 2]
        assert outputs[0].tokens != outputs[1].tokens

    def test_text_is_emitted_as_it_is_written(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "image-text-to-text", LLAVA), tmp_path / "m")
        heard: list[str] = []
        (answer,) = running.answer(self.items()[:1], Options(max_new_tokens=8), emit=heard.append)
        assert "".join(heard).strip() == answer["text"]

    @pytest.mark.slow
    def test_the_export_agrees_with_torch(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "image-text-to-text", LLAVA), tmp_path / "m")
        expected, answers = running.comparable(self.items()), running.answer(self.items(), Options(max_new_tokens=6))
        running.session = running.onnx()
        np.testing.assert_allclose(running.comparable(self.items()), expected, atol=1e-3)
        assert running.answer(self.items(), Options(max_new_tokens=6)) == answers

    def test_wrong_inputs_are_errors(self, tmp_path: Path) -> None:
        running = Running(random_model("multimodal", "image-text-to-text", LLAVA), tmp_path / "m")
        image = str(EXAMPLE_IMAGE)
        items = [Item(0, image=image), Item(1, text="what?"), Item(2, image=image, text="<image> twice")]
        items.append(Item(3, image=image, text="x" * 400))
        assert all(isinstance(e, InputError) for e in running.family.preprocess_inputs(items, Options()))


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="no task"):
        Running(random_model("multimodal", "image-to-text", json.loads(json.dumps(CLIP))), tmp_path / "m")
