"""Images from bytes to pixels: plain JPEGs straight from memory by libjpeg-turbo, everything else by Pillow.

A JPEG can be read at a half, a quarter or an eighth of its size: the inverse transform then makes only those pixels.
It can be read down to a row: most of the work is parsing what comes before a pixel, so that nothing but what comes
behind can be left out. Its pixels do not depend on which of the two libraries reads it, nor on where it is left, and
damage in what is read is an error, never grey.

Legend: H W image.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

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
_EXIF, _FRAMES, _RESTARTS, _SCAN, _END = 0xE1, (0xC0, 0xC1), 0xDD, 0xDA, 0xD9  # frames: those that come row by row
_ALL_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # a marker that has content, or ends the image
_MOST_SCANS = 32  # each goes over all pixels and may cost no bytes; libjpeg makes 10, of four channels 18
_LEFT_ALONE = re.compile("extraneous bytes before marker 0xd9")  # libjpeg-turbo's words where rows are left out
_MARGIN_ROWS = 4  # upsampling of colour looks at the row below, which may stand for four
_LEAST_ROWS_LEFT_OUT = 16  # one row of blocks
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
        height_at: offset of its height in ``data``, where its rows are stored from top to bottom; else 0.
    """

    data: bytes
    width: int
    height: int
    orientation: int
    height_at: int

    def read_pixels(self, reduction: int, bottom: int | None = None) -> Uint8Array:
        """Upright uint8 [H, W, 3], each side divided by ``reduction`` (1, 2, 4, 8) and rounded up.

        Args:
            bottom: what is below this row of the image may be missing.

        Raises BadSampleError ``image_undecodable``; damage below ``bottom`` may go unseen, a missing end does not.
        """
        columns, rows = (self.width, self.height) if self.orientation < 5 else (self.height, self.width)
        data, num_rows = self._down_to(rows if bottom is None else bottom + reduction, rows)
        pixels = np.empty((-(-num_rows // reduction), -(-columns // reduction), 3), np.uint8)
        try:
            simplejpeg.decode_jpeg(data, min_height=pixels.shape[0], min_width=pixels.shape[1], buffer=pixels)
        except ValueError as error:
            if _DAMAGE.search(str(error)):
                raise BadSampleError("image_undecodable") from error
            # Only the first warning is told, and this one comes when all pixels are there.
            if num_rows == rows or not _LEFT_ALONE.search(str(error)):
                return _read_with_pillow(self.data, self.width * self.height).pixels
        return _upright(pixels, self.orientation)

    def _down_to(self, bottom: int, rows: int) -> tuple[bytes, int]:
        """The JPEG, with a header that says that it ends at ``bottom``, and the number of its rows."""
        num_rows = bottom + _MARGIN_ROWS
        if not self.height_at or self.orientation > 2 or num_rows > rows - _LEAST_ROWS_LEFT_OUT:
            return self.data, rows
        parts = self.data[: self.height_at], num_rows.to_bytes(2, "big"), self.data[self.height_at + 2 :]
        return b"".join(parts), num_rows

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

    def read_pixels(self, reduction: int, bottom: int | None = None) -> Uint8Array:
        """All of them, whatever would have been enough."""
        return self.pixels

    @property
    def mirrored(self) -> tuple[bool, bool]:
        """Its pixels are upright."""
        return False, False


def open_image(data: bytes, max_pixels: int) -> JpegImage | PixelImage:
    """An image of any kind as RGB: transparency lies on white, animations give their first frame.

    Args:
        max_pixels: refused by its header, before decoding, when larger (Pillow refuses twice its own limit too).

    Raises BadSampleError: ``image_undecodable`` or ``image_too_large``, which a JPEG of too many scans is as well.
    """
    if not data.startswith(_JPEG_START):
        return _read_with_pillow(data, max_pixels)
    header = _read_header(data)
    if not header.is_one_scan:
        _check_scans(data)
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # rare forms of JPEG (4:4:1 has no name there), and damage: Pillow tells them apart
        return _read_with_pillow(data, max_pixels)
    if width * height > max_pixels:
        raise BadSampleError("image_too_large")
    if colors not in _JPEG_COLORS:
        return _read_with_pillow(data, max_pixels)
    if header.orientation >= 5:
        width, height = height, width
    return JpegImage(data, width, height, header.orientation, header.height_at)


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


class _Header(NamedTuple):
    """What the segments of a JPEG say."""

    orientation: int
    height_at: int
    """See ``JpegImage``."""
    is_one_scan: bool
    """Whether the first scan has all of the image, so that decoders read no other."""


def _read_header(jpeg: bytes) -> _Header:
    exif, frame, frame_at, restarts, is_one_scan = b"", 0, 0, False, False
    for marker, start, stop in _segments(jpeg):
        if marker == _SCAN:
            is_one_scan = frame in _FRAMES and jpeg[start : start + 1] == jpeg[frame_at + 5 : frame_at + 6]
            break
        if marker == _EXIF and not exif and jpeg.startswith(_EXIF_START, start):
            exif = jpeg[start:stop]
        elif marker in _ALL_FRAMES:
            frame, frame_at = marker, start
        elif marker == _RESTARTS:  # they hide what libjpeg-turbo says at the end
            restarts = True
    height_at = frame_at + 1 if frame in _FRAMES and not restarts else 0
    return _Header(_read_orientation(exif), height_at, is_one_scan)


def _check_scans(jpeg: bytes) -> None:
    """Raises BadSampleError ``image_too_large`` where a few bytes would be decoded for minutes."""
    if jpeg.count(bytes((0xFF, _SCAN))) <= _MOST_SCANS:  # the true number is smaller, if anything
        return
    number = sum(marker == _SCAN for marker, _, _ in _segments(jpeg))
    if number > _MOST_SCANS:
        raise BadSampleError("image_too_large") from ValueError(f"{number:,} scans, at most {_MOST_SCANS}")


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker and content, from start to stop, up to the image's end, as decoders find them: the content of a segment
    is left out by its length, and what is between segments (pixels) by looking for the next marker.
    """
    at = 2
    while (found := _SEGMENT.search(jpeg, at)) and (marker := found[1][0]) != _END:
        start = found.end() + 2
        at = found.end() + int.from_bytes(jpeg[found.end() : start], "big")
        yield marker, start, at


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
