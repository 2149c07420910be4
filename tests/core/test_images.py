from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.core import image_settings, images
from accel.core.errors import IncompatibleError, InputError, TransferError
from accel.core.images import ImageProcessor, Picture, load_image, save_png, shortest_edge_size


def data(name: str) -> str:
    import skimage

    return str(Path(skimage.__file__).parent / "data" / name)


PICTURES = ("chelsea.png", "astronaut.png", "rocket.jpg")

#: a processor of each model that people use, and one for each way of giving the size
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {}),
    ("ViT", {"size": 96, "resample": 3, "do_normalize": False}),
    ("ViT", {"do_rescale": False, "do_normalize": False}),
    ("ViT", {"size": {"max_height": 300, "max_width": 200}}),
    ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
    ("CLIP", {}),
    ("CLIP", {"crop_size": 640}),
    ("ChineseCLIP", {}),
    ("MobileNetV1", {}),
    ("MobileNetV2", {"size": 256, "crop_size": {"height": 224, "width": 224}}),
    ("MobileViT", {}),
    ("Detr", {}),
    ("Detr", {"size": {"shortest_edge": 400, "longest_edge": 500}}),
    ("ConditionalDetr", {}),
    ("DeformableDetr", {}),
    ("RTDetr", {}),
    ("Yolos", {}),
    ("Blip", {}),
    ("Bit", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
    ("Siglip", {}),
    ("Beit", {"do_center_crop": True}),
    ("DeiT", {}),
    ("EfficientNet", {}),
    ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False, "resample": 0}),
    ("Levit", {}),
    ("Llava", {"do_pad": True}),
    ("Perceiver", {}),
    ("PoolFormer", {}),
    ("Pvt", {}),
    ("Segformer", {}),
    ("GLPN", {}),
    ("DPT", {"size": {"height": 300, "width": 300}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}),
]


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS, ids=[f"{k}-{len(s)}" for k, s in PROCESSORS])
def test_tensors_equal_transformers_processors(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    reference = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    reference.save_pretrained(tmp_path)
    frozen = json.loads(json.dumps(image_settings.freeze(tmp_path, {})))
    processor = ImageProcessor(frozen)
    for name in PICTURES:
        image = load_image(data(name))
        expected = np.asarray(reference(images=image, return_tensors="np")["pixel_values"][0])
        np.testing.assert_allclose(processor(image), expected, atol=1e-6, err_msg=name)


def test_from_config_reads_a_whole_preprocessor_config() -> None:
    import transformers

    reference = transformers.CLIPImageProcessorPil()
    config = json.loads(reference.to_json_string())
    image = load_image(data("chelsea.png"))
    expected = np.asarray(reference(images=image, return_tensors="np")["pixel_values"][0])
    assert np.array_equal(ImageProcessor.from_config(config)(image), expected)


@pytest.mark.parametrize(
    ("config", "kind", "size"),
    [
        ({"model_type": "vit", "image_size": 96}, "ViT", (96, 96)),
        ({"model_type": "resnet"}, "ConvNext", (384, 384)),
        ({"model_type": "mobilenet_v2", "image_size": 112}, "MobileNetV2", (112, 112)),
        ({"model_type": "clip", "vision_config": {"image_size": 64}}, "CLIP", (64, 64)),
        ({"model_type": "dinov2", "image_size": 70}, "Bit", (70, 70)),
        ({"model_type": "yolos", "image_size": [64, 96]}, "Yolos", (64, 96)),
    ],
)
def test_without_a_file_the_architectures_own_processor_counts(
    config: dict[str, Any], kind: str, size: tuple[int, int]
) -> None:
    settings = image_settings.freeze(None, config)
    assert settings["kind"] == kind
    assert ImageProcessor(settings)(load_image(data("chelsea.png"))).shape == (3, *size)


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Qwen2VLImageProcessor"}')
    with pytest.raises(IncompatibleError, match="Qwen2VL"):
        image_settings.freeze(tmp_path, {})
    with pytest.raises(IncompatibleError, match="no image processor"):
        image_settings.freeze(None, {"model_type": "bert"})


def test_a_processor_that_would_differ_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "shortest_edge_size", lambda h, w, e, m=None: (e, e))
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "BitImageProcessor", "do_center_crop": false}'
    )
    with pytest.raises(IncompatibleError, match="not reproduced"):
        image_settings.freeze(tmp_path, {})


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_preprocessor_config_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        image_settings.freeze(tmp_path, {"model_type": "vit"})


def test_nested_settings_of_a_processor_config_are_read(tmp_path: Path) -> None:
    nested = {"image_processor": {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 32, "width": 48}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    settings = image_settings.freeze(tmp_path, {"model_type": "bert"})
    assert (settings["kind"], settings["size"]) == ("ViT", {"height": 32, "width": 48})


class TestLoading:
    def test_an_upright_rgb_picture_comes_out_of_every_mode(self, tmp_path: Path) -> None:
        base = load_image(data("chelsea.png")).resize((60, 40))
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK"):
            path = tmp_path / (f"{mode}.tif" if mode == "CMYK" else f"{mode}.png")
            base.convert(mode).save(path)
            loaded = load_image(path)
            assert (loaded.mode, loaded.size) == ("RGB", (60, 40)), mode
        grey = np.asarray(load_image(tmp_path / "L.png"))
        assert np.array_equal(grey[..., 0], grey[..., 2])

    def test_sixteen_bits_are_scaled_and_not_clipped(self, tmp_path: Path) -> None:
        ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        Image.fromarray(ramp).save(tmp_path / "ramp.png")
        loaded = np.asarray(load_image(tmp_path / "ramp.png"))[..., 0].ravel()
        assert np.abs(loaded - np.arange(256)).max() <= 1
        Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "unit.tif")
        assert np.abs(np.asarray(load_image(tmp_path / "unit.tif"))[..., 0].ravel() - np.arange(256)).max() <= 1

    def test_floats_that_are_not_numbers_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
        with pytest.raises(InputError, match="not numbers"):
            load_image(tmp_path / "nan.tif")

    def test_the_camera_orientation_is_applied(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (40, 20), "red")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=exif)
        assert load_image(tmp_path / "turned.jpg").size == (20, 40)

    def test_an_animation_gives_its_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert load_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)

    def test_a_truncated_png_is_an_input_error_with_its_path(self, tmp_path: Path) -> None:
        whole = Path(data("chelsea.png")).read_bytes()
        for part in (20, 300, len(whole) // 2):
            path = tmp_path / f"cut-{part}.png"
            path.write_bytes(whole[:part])
            with pytest.raises(InputError, match=f"cut-{part}"):
                load_image(path)

    def test_damaged_bytes_are_input_errors_and_nothing_else(self, tmp_path: Path) -> None:
        random = np.random.default_rng(3)
        for name in ("chelsea.png", "rocket.jpg", "multipage.tif", "no_time_for_that_tiny.gif"):
            content = bytearray(Path(data(name)).read_bytes()[:60000])
            for attempt in range(12):
                broken = bytearray(content)
                for place in random.integers(0, min(2000, len(broken)), 12):
                    broken[place] = int(random.integers(0, 256))
                path = tmp_path / f"{attempt}-{name}"
                path.write_bytes(broken)
                try:
                    load_image(path)
                except InputError as error:
                    assert name in error.message

    @pytest.mark.parametrize(
        ("name", "content"),
        [("text.png", b"hello"), ("empty.jpg", b""), ("page.svg", b"<svg/>"), ("x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n")],
    )
    def test_what_is_no_image_is_an_input_error(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_image(tmp_path / name)

    def test_missing_files_and_folders_are_input_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no image file"):
            load_image(tmp_path / "none.png")
        with pytest.raises(InputError, match="folder"):
            load_image(tmp_path)

    def test_a_decompression_bomb_is_refused_before_it_unpacks(self, tmp_path: Path) -> None:
        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        for side in (12_000, 60_000):
            head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
            png = (
                b"\x89PNG\r\n\x1a\n"
                + chunk(b"IHDR", head)
                + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
                + chunk(b"IEND", b"")
            )
            (tmp_path / "bomb.png").write_bytes(png)
            with pytest.raises(InputError, match="pixels"):
                load_image(tmp_path / "bomb.png")

    def test_a_strip_that_would_grow_without_bound_is_refused(self, tmp_path: Path) -> None:
        Image.new("RGB", (60000, 4)).save(tmp_path / "strip.png")
        processor = ImageProcessor(
            image_settings.freeze(None, {"model_type": "clip", "vision_config": {"image_size": 224}})
        )
        with pytest.raises(InputError, match=r"strip\.png.*resized"):
            processor.open(tmp_path / "strip.png")

    def test_open_keeps_the_original_size(self) -> None:
        processor = ImageProcessor(image_settings.freeze(None, {"model_type": "vit", "image_size": 32}))
        picture = processor.open(data("chelsea.png"))
        assert isinstance(picture, Picture)
        assert (picture.size, picture.length) == ((300, 451), 32 * 32)


@pytest.mark.parametrize(
    ("size", "edge", "longest", "expected"),
    [
        ((100, 200), 50, None, (50, 100)),
        ((200, 100), 50, None, (100, 50)),
        ((100, 300), 100, 150, (50, 150)),
        ((800, 1200), 800, 1333, (800, 1200)),
    ],
)
def test_shortest_edge(size: tuple[int, int], edge: int, longest: int | None, expected: tuple[int, int]) -> None:
    assert shortest_edge_size(*size, edge, longest) == expected


class TestSaving:
    def test_an_existing_file_is_never_overwritten(self, tmp_path: Path) -> None:
        pixels = np.full((4, 5, 3), 200, np.uint8)
        paths = [save_png(pixels, tmp_path / "new", "image") for _ in range(3)]
        assert [p.name for p in paths] == ["image.png", "image-2.png", "image-3.png"]
        assert np.array_equal(np.asarray(Image.open(paths[0])), pixels)

    def test_a_folder_that_cannot_be_made_is_a_transfer_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(TransferError):
            save_png(np.zeros((2, 2), np.uint8), tmp_path / "file" / "below", "image")


#: what the files on the hub look like: old names, sizes as numbers, keys that mean nothing here
HUB: list[tuple[dict[str, Any], str, tuple[int, int]]] = [
    (
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": 224,
        },
        "CLIP",
        (224, 224),
    ),
    (
        {
            "do_normalize": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "size": 224,
        },
        "ViT",
        (224, 224),
    ),
    (
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
            "size": 224,
        },
        "ConvNext",
        (224, 224),
    ),
    (
        {
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "DetrFeatureExtractor",
            "format": "coco_detection",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "max_size": 1333,
            "size": 800,
        },
        "Detr",
        (800, 1202),
    ),
    (
        {
            "_valid_processor_keys": ["images", "do_resize"],
            "do_convert_rgb": None,
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "size": {"height": 224, "width": 224},
        },
        "Siglip",
        (224, 224),
    ),
]


@pytest.mark.parametrize(("content", "kind", "size"), HUB, ids=[kind for _, kind, _ in HUB])
def test_files_of_the_hub_are_understood(tmp_path: Path, content: dict[str, Any], kind: str, size: Any) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    settings = image_settings.freeze(tmp_path, {"model_type": "vit"})
    assert settings["kind"] == kind
    assert ImageProcessor(settings)(load_image(data("chelsea.png"))).shape == (3, *size)
