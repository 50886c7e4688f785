"""Images from bytes to pixels: plain JPEGs straight from memory by libjpeg-turbo, everything else by Pillow.

A JPEG can be read at a half, a quarter or an eighth of its size: the inverse transform then makes only those pixels.
Its pixels do not depend on which of the two libraries reads it, and damage is an error, never grey.

Legend: H W image.
"""

import io
import re
import struct
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
from PIL import Image, features

from orchestrator.data.sample import BadSampleError

Uint8Array = npt.NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # no plugin beyond these ever sees the bytes
_JPEG_START = b"\xff\xd8\xff"
_JPEG_COLORS = ("YCbCr", "RGB", "Gray")  # CMYK needs a conversion that libjpeg-turbo leaves to its caller
_EXIF_START = b"Exif\0\0"
_ORIENTATION_TAG, _SHORT = 0x0112, 3
# What libjpeg-turbo warns of where it goes on with invented pixels; its other warnings are about form.
_DAMAGE = re.compile("premature end|bad huffman|bad arithmetic|found marker", re.IGNORECASE)
UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, struct.error)
"""What Pillow's plugins raise at damaged files."""


def decoder_version() -> str:
    """Names and versions of everything that makes pixels; how it is used is ``data.decode``."""
    parts = (f"{name} {features.version(name)}" for name in ("jpg", "libjpeg_turbo", "zlib", "webp"))
    torch_version = version("torch").partition("+")[0]  # the build for another device resizes alike
    return f"pillow {PIL.__version__} ({', '.join(parts)}), simplejpeg {simplejpeg.__version__}, torch {torch_version}"


@dataclass(frozen=True)
class JpegImage:
    """A JPEG whose header has been read.

    Args:
        width, height: of the upright image.
        orientation: EXIF's, 1 to 8.
    """

    data: bytes
    width: int
    height: int
    orientation: int

    def read_pixels(self, reduction: int) -> Uint8Array:
        """Upright uint8 [H, W, 3], each side divided by ``reduction`` (1, 2, 4, 8) and rounded up.

        Raises BadSampleError ``image_undecodable``.
        """
        stored = (self.height, self.width) if self.orientation < 5 else (self.width, self.height)
        height, width = (-(-side // reduction) for side in stored)
        try:
            pixels = simplejpeg.decode_jpeg(self.data, min_height=height, min_width=width)
        except ValueError as error:
            if _DAMAGE.search(str(error)):
                raise BadSampleError("image_undecodable") from error
            return _read_with_pillow(self.data, self.width * self.height).pixels
        return _upright(pixels, self.orientation)

    @property
    def mirrored(self) -> tuple[bool, bool]:
        """Whether its stored columns and rows run against the upright ones."""
        return _mirrored(self.orientation)


@dataclass(frozen=True)
class PixelImage:
    """An image that had to be decoded whole: uint8 [H, W, 3], upright."""

    pixels: Uint8Array

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.pixels.shape[0]

    def read_pixels(self, reduction: int) -> Uint8Array:
        """All of them, whatever ``reduction`` would have been enough."""
        return self.pixels

    @property
    def mirrored(self) -> tuple[bool, bool]:
        """Its pixels are upright."""
        return False, False


def open_image(data: bytes, max_pixels: int) -> JpegImage | PixelImage:
    """An image of any kind as RGB: transparency lies on white, animations give their first frame.

    Args:
        max_pixels: refused by its header, before decoding, when larger (Pillow refuses twice its own limit too).

    Raises BadSampleError: ``image_undecodable`` or ``image_too_large``.
    """
    if not data.startswith(_JPEG_START):
        return _read_with_pillow(data, max_pixels)
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # rare forms of JPEG, and damage: Pillow tells them apart
        return _read_with_pillow(data, max_pixels)
    if width * height > max_pixels:
        raise BadSampleError("image_too_large")
    if colors not in _JPEG_COLORS:
        return _read_with_pillow(data, max_pixels)
    orientation = _read_orientation(_find_exif(data))
    if orientation >= 5:
        width, height = height, width
    return JpegImage(data, width, height, orientation)


def _read_with_pillow(data: bytes, max_pixels: int) -> PixelImage:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadSampleError("image_too_large")
            image.load()
            orientation = _read_orientation(image.info.get("exif", b""))
            return PixelImage(_upright(np.array(_to_rgb(image)), orientation))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("image_too_large") from error
    except UNDECODABLE as error:
        raise BadSampleError("image_undecodable") from error


def _find_exif(jpeg: bytes) -> bytes:
    """From the segments before the first scan; empty where there is none."""
    start = 2
    while jpeg[start : start + 1] == b"\xff" and (marker := jpeg[start + 1 : start + 2]) != b"\xda":
        if marker == b"\xff":  # padding
            start += 1
            continue
        stop = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        if marker == b"\xe1" and jpeg.startswith(_EXIF_START, start + 4):
            return jpeg[start + 4 : stop]
        start = stop
    return b""


def _read_orientation(exif: bytes) -> int:
    """1 to 8; 1 where there is none or it cannot be read (EXIF 2.3, 4.6: a TIFF header and its first directory)."""
    tiff = exif.removeprefix(_EXIF_START)
    order = ">" if tiff.startswith(b"MM") else "<"
    try:
        (directory,) = struct.unpack_from(f"{order}4xL", tiff)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for number in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", tiff, directory + 2 + 12 * number)
            if (tag, kind) == (_ORIENTATION_TAG, _SHORT):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _upright(pixels_HWC: Uint8Array, orientation: int) -> Uint8Array:
    """As the camera was held; a view."""
    if orientation >= 5:
        pixels_HWC = pixels_HWC.swapaxes(0, 1)
    right, down = (-1 if mirrored else 1 for mirrored in _mirrored(orientation))
    return pixels_HWC[::down, ::right]


def _mirrored(orientation: int) -> tuple[bool, bool]:
    return orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
