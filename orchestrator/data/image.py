"""Images from bytes to crops: decoding, and the two ways to a square (random for training, centred for evaluation).

Pillow decodes; its antialiased bicubic filter resizes. A crop is never made: resizing reads its box from the whole
image in one call. JPEGs much larger than needed are decoded at a half, a quarter or an eighth of their size.

Legend: H W image.
"""

import io
import math
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps, features

from orchestrator.data.draw import SampleDraw
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.spec.job import AugmentationSpec

Uint8Array = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # no plugin beyond these ever sees the bytes
_ORIENTATION_TAG = 0x0112
_REDUCING_GAP = 2.0  # reduce by whole factors first, down to twice the target: Pillow's thumbnails do the same
_CROP_ATTEMPTS = 10
# What Pillow's plugins raise at damaged files.
_UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, struct.error)


def decoder_version() -> str:
    """Name and version of everything that decides the pixels."""
    parts = (f"{name} {features.version(name)}" for name in ("jpg", "libjpeg_turbo", "zlib", "webp"))
    return f"pillow {PIL.__version__} bicubic ({', '.join(parts)})"


def find_image(sample: RawSample, image_fields: Sequence[str]) -> bytes:
    """The first of the image members that is there. Raises BadSampleError ``image_missing``."""
    for field in image_fields:
        if field in sample.members:
            return sample.members[field]
    raise BadSampleError("image_missing")


def least_side(augmentation: AugmentationSpec, size: int) -> int:
    """The shorter side that a decoded image needs so that every crop still has two pixels for one of ``size``."""
    low, high = augmentation.crop_ratio
    narrowest = augmentation.crop_scale[0] * min(low, 1 / high, 1)
    return math.ceil(_REDUCING_GAP * size / math.sqrt(narrowest))


def decode_image(data: bytes, max_pixels: int, min_side: int | None = None) -> Image.Image:
    """An upright RGB image; transparency lies on white, animations give their first frame.

    Args:
        max_pixels: refused by its header, before decoding, when larger (Pillow refuses twice its own limit too).
        min_side: a JPEG may be decoded at reduced size as long as its shorter side keeps this length.

    Raises BadSampleError: ``image_undecodable`` or ``image_too_large``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadSampleError("image_too_large")
            if min_side is not None and image.format == "JPEG":
                image.draft(None, (min_side, min_side))
            image.load()
            return _to_rgb(_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("image_too_large") from error
    except _UNDECODABLE as error:
        raise BadSampleError("image_undecodable") from error


def augment_image(image: Image.Image, augmentation: AugmentationSpec, size: int, draw: SampleDraw) -> Uint8Array:
    """A random-resized crop, perhaps mirrored: uint8 [size, size, 3], read-only.

    Area and log aspect ratio are uniform within their ranges; a box that does not fit is drawn again, and after
    ten attempts the largest centred one of an allowed ratio is taken (Inception crop, Szegedy et al. 2015, in the
    form that torchvision and open_clip made common).
    """
    pixels_HWC = _resize(image, size, _crop_box(image.width, image.height, augmentation, draw))
    if augmentation.flip and draw.uniform("flip") < 0.5:
        return np.ascontiguousarray(pixels_HWC[:, ::-1])
    return pixels_HWC


def resize_center(image: Image.Image, size: int) -> Uint8Array:
    """The centred square of the shorter side: uint8 [size, size, 3], read-only; nothing is drawn."""
    side = min(image.width, image.height)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _resize(image, size, (left, top, left + side, top + side))


def _resize(image: Image.Image, size: int, box: Box) -> Uint8Array:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=_REDUCING_GAP))


def _crop_box(width: int, height: int, augmentation: AugmentationSpec, draw: SampleDraw) -> Box:
    low, high = augmentation.crop_scale
    log_low, log_high = (math.log(ratio) for ratio in augmentation.crop_ratio)
    for attempt in range(_CROP_ATTEMPTS):
        area = width * height * (low + (high - low) * draw.uniform("crop_area", attempt))
        ratio = math.exp(log_low + (log_high - log_low) * draw.uniform("crop_ratio", attempt))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = draw.integer("crop_left", width - crop_width + 1, attempt)
            top = draw.integer("crop_top", height - crop_height + 1, attempt)
            return left, top, left + crop_width, top + crop_height
    ratio = min(max(width / height, augmentation.crop_ratio[0]), augmentation.crop_ratio[1])
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held, by the EXIF orientation."""
    if image.getexif().get(_ORIENTATION_TAG, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
