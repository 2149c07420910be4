"""Images: opened with care, and preprocessed as transformers' image processors do, with Pillow and numpy alone.

The arithmetic follows transformers' `PilBackend` step by step, so that the tensors are equal to those that the model
was trained with: resizing works on 8-bit pixels, rescaling happens in float64 and is rounded to float32, normalising
works in float32. Since a pixel has 256 possible values, the last two steps are one table look-up per channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import IncompatibleError, InputError, TransferError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Array = np.ndarray[Any, Any]

#: larger pictures are refused: an RGB copy of one takes 3 bytes a pixel
MAX_PIXELS = 100_000_000
#: a resized picture may not grow beyond this (a thin strip resized by its short edge does)
MAX_RESIZED_PIXELS = 40_000_000
#: formats that Pillow decodes itself; EPS, PDF and the like would start other programs
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000", "TGA", "PCX", "DDS")

#: processors whose steps `ImageProcessor` implements: their class names without `ImageProcessor`
# fmt: off
KINDS = frozenset((
    "Beit", "Bit", "Blip", "CLIP", "ChineseCLIP", "ConditionalDetr", "ConvNext", "DPT", "DeformableDetr", "DeiT",
    "Detr", "EfficientNet", "GLPN", "Levit", "Llava", "MobileNetV1", "MobileNetV2", "MobileViT", "Perceiver",
    "PoolFormer", "Pvt", "RTDetr", "Segformer", "Siglip", "ViT", "Yolos",
))
# fmt: on
#: kinds that have no centre crop, whatever their settings say
UNCROPPED = frozenset(
    ("ConditionalDetr", "DPT", "DeformableDetr", "Detr", "GLPN", "RTDetr", "Segformer", "Yolos"),
)


@dataclass(frozen=True)
class Picture:
    """A preprocessed image.

    Attributes:
        pixels: (3, height, width) float32, as the model wants it.
        size: (height, width) of the original in pixels, upright.
        length: pixels of one channel; batches are sorted by it.
    """

    pixels: Array
    size: tuple[int, int]

    @property
    def length(self) -> int:
        return int(self.pixels.shape[-2] * self.pixels.shape[-1])


def load_image(path: str | Path) -> Image.Image:
    """Opens an image file as upright RGB.

    Animations give their first frame; 16-bit greys are scaled to 8 bits; transparency is dropped as transformers does.

    Raises:
        InputError: missing, no image, truncated, or larger than `MAX_PIXELS`; the message names the path.
    """
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    file = Path(path)
    try:
        with warnings.catch_warnings():
            # readers warn of what the errors below say; our own limit is stricter than the one they warn at
            warnings.simplefilter("ignore")
            with _open(file) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise InputError(
                        f"{path} is {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} million",
                        "scale the picture down first",
                    )
                image.load()
                return _as_rgb(ImageOps.exif_transpose(image), path)
    except FileNotFoundError:
        raise InputError(f"no image file at {path}", "check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not an image", "name one image file") from None
    except PermissionError:
        raise InputError(f"{path} cannot be read: no permission", "change its permissions") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that can be read", "use PNG, JPEG, WebP, GIF, BMP or TIFF") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} unpacks to far too many pixels", "scale the picture down first") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError, ZeroDivisionError) as error:
        # Pillow's decoders answer damaged files with any of these
        raise InputError(f"{path} is a damaged image: {error}", "get the file again") from error


def _open(file: Path) -> Image.Image:
    """Tries the usual formats first: loading the readers of all others takes longer than reading a picture."""
    from PIL import Image, UnidentifiedImageError

    Image.preinit()
    try:
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        Image.init()
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _as_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"{path} has pixels that are not numbers", "get the file again")
        top = float(values.max(initial=0.0))
        # unit interval for floats, 8 or 16 bits for integers: what the values themselves show
        full = 1.0 if image.mode == "F" and top <= 1.0 else 255.0 if top <= 255.0 and image.mode != "I;16" else 65535.0
        grey = np.clip(values / full * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def shortest_edge_size(height: int, width: int, edge: int, longest: int | None = None) -> tuple[int, int]:
    """(height, width) with the short edge at `edge` and, if given, the long edge at most `longest`.

    Follows transformers' `get_resize_output_image_size` without and `get_size_with_aspect_ratio` with a longest edge.
    """
    if longest is None:
        short, long = sorted((height, width))
        scaled = int(edge * long / short)
        return (scaled, edge) if width <= height else (edge, scaled)
    raw: float | None = None
    short_f, long_f = float(min(height, width)), float(max(height, width))
    if long_f / short_f * edge > longest:
        raw = longest * short_f / long_f
        edge = round(raw)
    if (height <= width and height == edge) or (width <= height and width == edge):
        return height, width
    base = edge if raw is None else raw
    if width < height:
        return int(base * height / width), edge
    return edge, int(base * width / height)


def _multiple_of(value: float, multiple: int) -> int:
    near = round(value / multiple) * multiple
    return near if near >= 0 else math.ceil(value / multiple) * multiple


class ImageProcessor:
    """An image processor of transformers, rebuilt from its settings.

    Args:
        settings: the processor's full settings (as its `to_dict` gives them) with `kind`, one of `KINDS`.
            `accel.core.image_settings.freeze` makes them from a model's preprocessor_config.json.

    Raises:
        IncompatibleError: a kind of processor whose steps are not implemented.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.kind: str = self.settings.get("kind", "")
        if self.kind not in KINDS:
            raise IncompatibleError(
                f"the image processor {self.kind or 'without a name'} is not supported",
                f"use a model with one of: {', '.join(sorted(KINDS))}",
            )
        self._table = self._make_table()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """A processor from a preprocessor_config.json that has all of its settings."""
        name = str(
            config.get("kind") or config.get("image_processor_type") or config.get("feature_extractor_type") or ""
        )
        return cls({**config, "kind": processor_kind(name)})

    def __call__(self, image: Image.Image) -> Array:
        """(3, height, width) float32 from an RGB image."""
        import numpy as np

        s = self.settings
        if self.kind == "Llava" and s.get("do_pad"):
            image = self._squared(image)
        if self.kind == "Perceiver":
            pixels = self._crop(np.asarray(image), *self._perceiver_crop(image)) if s.get("do_center_crop") else None
            image = image if pixels is None else _from_array(pixels)
            image = self._resize(image) if s.get("do_resize") else image
            return self._to_tensor(np.asarray(image))
        if s.get("do_resize"):
            image = self._resize(image)
        pixels = np.asarray(image)
        if self.kind == "ConvNext" and s.get("do_resize") and s["size"]["shortest_edge"] < 384:
            pixels = self._crop(pixels, s["size"]["shortest_edge"], s["size"]["shortest_edge"])
        if s.get("do_center_crop") and self.kind not in UNCROPPED:
            pixels = self._crop(pixels, int(s["crop_size"]["height"]), int(s["crop_size"]["width"]))
        if self.kind == "DPT" and s.get("do_pad") and s.get("size_divisor"):
            raise IncompatibleError("DPT pictures padded to a multiple are not supported", "set do_pad to false")
        return self._to_tensor(pixels)

    def open(self, path: str | Path) -> Picture:
        """Loads and preprocesses an image file.

        Raises:
            InputError: see `load_image`.
        """
        image = load_image(path)
        try:
            return Picture(self(image), (image.height, image.width))
        except InputError as error:
            raise InputError(f"{path}: {error.message}", error.hint) from error

    def _target(self, height: int, width: int) -> tuple[int, int]:
        s: dict[str, Any] = self.settings
        size: dict[str, Any] = s.get("size") or {}
        edge: Any
        edge, longest = size.get("shortest_edge"), size.get("longest_edge")
        if self.kind == "ConvNext":
            return shortest_edge_size(height, width, int(edge / s["crop_pct"])) if edge < 384 else (edge, edge)
        if self.kind == "Levit" and edge:
            return shortest_edge_size(height, width, int((256 / 224) * edge))
        if self.kind == "PoolFormer" and s.get("crop_pct") is not None:
            if edge or size["height"] == size["width"]:
                return shortest_edge_size(height, width, int((edge or size["height"]) / s["crop_pct"]))
            return int(size["height"] / s["crop_pct"]), int(size["width"] / s["crop_pct"])
        if self.kind == "GLPN":
            divisor = int(s.get("size_divisor") or 32)
            return height // divisor * divisor, width // divisor * divisor
        if self.kind == "DPT":
            down, across = size["height"] / height, size["width"] / width
            if s.get("keep_aspect_ratio"):
                down = across = across if abs(1 - across) < abs(1 - down) else down
            multiple = int(s.get("ensure_multiple_of") or 1)
            return _multiple_of(down * height, multiple), _multiple_of(across * width, multiple)
        if edge and longest:
            height, width = shortest_edge_size(height, width, edge, longest)
            return (height // 16 * 16, width // 16 * 16) if self.kind == "Yolos" else (height, width)
        if edge:
            return shortest_edge_size(height, width, edge)
        if size.get("max_height") and size.get("max_width"):
            scale = min(size["max_height"] / height, size["max_width"] / width)
            return int(height * scale), int(width * scale)
        return int(size["height"]), int(size["width"])

    def _resize(self, image: Image.Image) -> Image.Image:
        height, width = self._target(image.height, image.width)
        if height < 1 or width < 1 or height * width > MAX_RESIZED_PIXELS:
            raise InputError(
                f"a picture of {image.width} x {image.height} pixels would be resized to {width} x {height}",
                "crop it to a less extreme shape",
            )
        return image.resize((width, height), resample=int(self.settings.get("resample", 2)))

    def _squared(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        if image.width == image.height:
            return image
        mean = self.settings.get("image_mean") or (0.0, 0.0, 0.0)
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def _perceiver_crop(self, image: Image.Image) -> tuple[int, int]:
        size, crop, side = self.settings["size"], self.settings["crop_size"], min(image.size)
        return int((size["height"] / crop["height"]) * side), int((size["width"] / crop["width"]) * side)

    @staticmethod
    def _crop(pixels: Array, height: int, width: int) -> Array:
        """The centre of (height, width, 3) pixels; smaller pictures are padded with black."""
        import numpy as np

        rows, columns = pixels.shape[:2]
        top, left = (rows - height) // 2, (columns - width) // 2
        if top >= 0 and left >= 0:
            return pixels[top : top + height, left : left + width]
        tall, wide = max(height, rows), max(width, columns)
        above, before = math.ceil((tall - rows) / 2), math.ceil((wide - columns) / 2)
        canvas = np.zeros((tall, wide, pixels.shape[2]), dtype=pixels.dtype)
        canvas[above : above + rows, before : before + columns] = pixels
        top, left = top + above, left + before
        return canvas[max(0, top) : min(tall, top + height), max(0, left) : min(wide, left + width)]

    def _make_table(self) -> Array:
        """(3, 256) float32: what each 8-bit value of each channel becomes."""
        import numpy as np

        s = self.settings
        values = np.arange(256, dtype=np.float64)
        if s.get("do_rescale", True):
            values = values * float(s.get("rescale_factor") or 1 / 255)
        table: Array = np.repeat(values.astype(np.float32)[None], 3, axis=0)
        if s.get("rescale_offset"):
            table = table - np.float32(1)
        if s.get("do_normalize") and self.kind != "MobileViT":
            table = (table - _per_channel(s["image_mean"])) / _per_channel(s["image_std"])
        if self.kind == "EfficientNet" and s.get("include_top"):
            table = table / _per_channel(s["image_std"])
        return table.astype(np.float32)

    def _to_tensor(self, pixels: Array) -> Array:
        import numpy as np

        tensor = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        # the flip swaps where a channel goes, after it was rescaled
        order = (2, 1, 0) if self.settings.get("do_flip_channel_order") else (0, 1, 2)
        for target, channel in enumerate(order):
            np.take(self._table[channel], pixels[:, :, channel], out=tensor[target])
        return tensor


def _per_channel(value: float | Sequence[float]) -> Array:
    import numpy as np

    values = list(value) if isinstance(value, Sequence) else [value] * 3
    return np.asarray(values, dtype=np.float32)[:, None]


def _from_array(pixels: Array) -> Image.Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def processor_kind(name: str) -> str:
    """The class name of a processor without what all of them share: `ViT` for `ViTImageProcessorFast`."""
    for suffix in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(suffix)
    return name


def save_png(pixels: Array, folder: Path, stem: str) -> Path:
    """Writes 8-bit pixels (height, width) or (height, width, 3) as PNG under a name that is free.

    Returns:
        The file: `stem.png`, or `stem-2.png` and so on where that exists already.

    Raises:
        TransferError: the folder cannot be written.
    """
    from io import BytesIO

    from accel.core.paths import ensure

    buffer = BytesIO()
    _from_array(pixels).save(buffer, format="PNG")
    ensure(folder)
    number = 1
    while True:
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        try:
            with open(path, "xb") as file:
                file.write(buffer.getbuffer())
            return path
        except FileExistsError:
            number += 1
        except OSError as error:
            raise TransferError(
                f"cannot write {path}: {error.strerror or error}",
                "free space or rights there",
            ) from error
