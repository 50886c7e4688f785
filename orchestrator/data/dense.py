"""Dense annotations (depth, normals, masks) through the crop, resize and flip of their image.

A value of the square is what the annotation says at the centre of its pixel. Masks take the nearest pixel, since labels
have no mean. Depth and normals are interpolated between the four nearest pixels, but only those of the nearest one's
surface: a mean over an edge would be a place where nothing is, and what is unknown has no say in a mean. For the same
reason no filter averages what a square pixel covers, as the image's does.

The annotation may have another resolution than its image; both show the same, upright. ``encode_dense`` is the
opposite, for makers.

Legend: H W annotation, S pixels of the square.
"""

import io
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from orchestrator.columns import AnnotationKind
from orchestrator.data.annotation_header import MOST_LEVELS, AnnotationColumn
from orchestrator.data.crop import Crop
from orchestrator.data.decode import UNDECODABLE
from orchestrator.data.sample import BadSampleError
from orchestrator.errors import AnnotationError

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.float64]
"""Columns or rows of the annotation; whole numbers are centres of pixels."""
T = TypeVar("T", bound=np.generic)

NORMAL_ONE = 127
"""One, in the int8 of a batch."""
_MODES = {"depth": ("I;16", "I"), "normals": ("RGB",), "mask": ("L", "P", "1")}
_SAME_DEPTH = 0.1  # neighbours of a surface differ by less, as a share
_SAME_NORMAL = 0.9  # ... and the cosine between their normals is more: 26 degrees


def sample_dense(data: bytes, column: AnnotationColumn, crop: Crop, size: int, max_pixels: int) -> Array:
    """The square that belongs to ``crop``, in the form of ``columns.py``.

    Raises BadSampleError ``annotation_undecodable``: no PNG of the column's kind, or larger than ``max_pixels``.
    """
    pixels = _decode(data, column.kind, max_pixels)
    x_S, y_S = crop.centers(size)
    x_S, y_S = x_S * pixels.shape[1] - 0.5, y_S * pixels.shape[0] - 0.5
    match column.kind:
        case "depth":
            return (_sample_depth(pixels.astype(np.float32), x_S, y_S) * column.scale).astype(np.float16)
        case "normals":
            normal_SS3 = _sample_normals(pixels.astype(np.float32) / 127.5 - 1, x_S, y_S)
            normal_SS3[..., 0] *= -1 if crop.flipped else 1
            return np.rint(NORMAL_ONE * normal_SS3).astype(np.int8)
        case _:
            return _nearest(pixels, x_S, y_S).astype(np.uint8)


def encode_dense(values: Array, column: AnnotationColumn) -> bytes:
    """A PNG of depth [H, W] in the maker's unit, normals [H, W, 3] of unit length (0 where unknown) or labels [H, W].

    Raises AnnotationError for a depth or label that does not fit: negative, not a number, or too large.
    """
    match column.kind:
        case "depth":
            image = Image.fromarray(_levels(values.astype(np.float64) / column.scale, MOST_LEVELS, column, np.uint16))
        case "normals":
            image = Image.fromarray(np.rint((values.astype(np.float32) + 1) * 127.5).clip(0, 255).astype(np.uint8))
        case _:
            image = Image.fromarray(_levels(values.astype(np.float64), 255, column, np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _levels(values: Places, most: int, column: AnnotationColumn, dtype: type[np.generic]) -> Array:
    levels = np.rint(values)
    if not (levels.min() >= 0 and levels.max() <= most):
        raise AnnotationError(
            f"annotation column '{column.name}': {column.kind} from {levels.min():g} to {levels.max():g} grey levels; "
            f"wanted 0 to {most}" + ("; choose another scale" if column.kind == "depth" else "")
        )
    return levels.astype(dtype)


def _decode(data: bytes, kind: AnnotationKind, max_pixels: int) -> Array:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in _MODES[kind] or image.width * image.height > max_pixels:
                raise BadSampleError("annotation_undecodable")
            return np.asarray(image)
    except (*UNDECODABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("annotation_undecodable") from error


def _sample_depth(depth_HW: Floats, x_S: Places, y_S: Places) -> Floats:
    nearest_SS = _nearest(depth_HW, x_S, y_S)
    total_SS, weights_SS = np.zeros_like(nearest_SS), np.zeros_like(nearest_SS)
    for value_SS, weight_SS in _neighbors(depth_HW, x_S, y_S):
        same_SS = (value_SS > 0) & (np.abs(value_SS - nearest_SS) <= _SAME_DEPTH * nearest_SS)
        total_SS += same_SS * weight_SS * value_SS
        weights_SS += same_SS * weight_SS
    # The nearest pixel has a quarter of the weight at least, unless it is unknown.
    return np.divide(total_SS, weights_SS, out=np.zeros_like(total_SS), where=nearest_SS > 0)


def _sample_normals(normal_HW3: Floats, x_S: Places, y_S: Places) -> Floats:
    normal_3HW = np.ascontiguousarray(normal_HW3.transpose(2, 0, 1))  # planes gather twice as fast
    nearest_3SS = np.stack([_nearest(plane_HW, x_S, y_S) for plane_HW in normal_3HW])
    total_3SS = np.zeros_like(nearest_3SS)
    for planes in zip(*(_neighbors(plane_HW, x_S, y_S) for plane_HW in normal_3HW), strict=True):
        value_3SS, weight_SS = [value_SS for value_SS, _ in planes], planes[0][1]
        cosine_SS = sum(value_SS * near_SS for value_SS, near_SS in zip(value_3SS, nearest_3SS, strict=True))
        weight_SS = weight_SS * (cosine_SS > _SAME_NORMAL)
        for total_SS, value_SS in zip(total_3SS, value_3SS, strict=True):
            total_SS += weight_SS * value_SS
    length_SS = np.sqrt(np.square(total_3SS).sum(axis=0))
    unit_3SS = np.divide(total_3SS, length_SS, out=np.zeros_like(total_3SS), where=length_SS > 0)
    return unit_3SS.transpose(1, 2, 0)


def _nearest(values: npt.NDArray[T], x_S: Places, y_S: Places) -> npt.NDArray[T]:
    """[S, S, ...]"""
    columns, rows = _clipped(np.rint(x_S), values.shape[1]), _clipped(np.rint(y_S), values.shape[0])
    return values[rows][:, columns]


def _neighbors(values: Floats, x_S: Places, y_S: Places) -> Iterator[tuple[Floats, Floats]]:
    """The four pixels around each place, [S, S, ...], and their weights in bilinear interpolation, [S, S]."""
    left_S, top_S = np.floor(x_S), np.floor(y_S)
    right_share_S, low_share_S = x_S - left_S, y_S - top_S
    for down, row_weight_S in ((0, 1 - low_share_S), (1, low_share_S)):
        rows = values[_clipped(top_S + down, values.shape[0])]
        for along, column_weight_S in ((0, 1 - right_share_S), (1, right_share_S)):
            weight_SS = np.outer(row_weight_S, column_weight_S).astype(np.float32)
            yield rows[:, _clipped(left_S + along, values.shape[1])], weight_SS


def _clipped(places_S: Places, length: int) -> npt.NDArray[np.int64]:
    return places_S.astype(np.int64).clip(0, length - 1)
