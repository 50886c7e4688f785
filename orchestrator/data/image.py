"""Images from bytes to squares: a random-resized crop for training, the centre for evaluation.

The crop is drawn from the header, so that a JPEG is decoded no larger than the crop needs, and no further down where
that is to be fast; an antialiased bicubic filter (Pillow's, by torch's uint8 kernel, the same to a grey level on every
CPU) makes the square.

Legend: H W image.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from orchestrator.data.crop import Crop
from orchestrator.data.decode import JpegImage, PixelImage, Uint8Array, open_image
from orchestrator.data.draw import SampleDraw
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.job import ShardsSpec

Decode = Literal["fast", "exact"]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the whole image."""

_LEAST_PIXELS = {"fast": 0.5, "exact": 2.0}
"""Decoded pixels for one of the square, a side; exact: what Pillow's thumbnails keep before they filter."""
_CROP_ATTEMPTS = 10


def find_image(sample: RawSample, image_fields: Sequence[str]) -> bytes:
    """The first of the image members that is there. Raises BadSampleError ``image_missing``."""
    for field in image_fields:
        if field in sample.members:
            return sample.members[field]
    raise BadSampleError("image_missing")


def augment_image(data: bytes, spec: ShardsSpec, size: int, draw: SampleDraw) -> tuple[Uint8Array, Crop]:
    """A random-resized crop, perhaps mirrored: uint8 [size, size, 3], and which part of the image it is.

    Area and log aspect ratio are uniform within their ranges; a box that does not fit is drawn again, and after
    ten attempts the largest centred one of an allowed ratio is taken (Inception crop, Szegedy et al. 2015, in the
    form that torchvision and open_clip made common).

    Raises BadSampleError: ``image_undecodable`` or ``image_too_large``.
    """
    image = open_image(data, spec.max_image_pixels)
    box = crop_box(image.width, image.height, spec.augmentation, draw)
    pixels_HWC, crop = _resize(image, box, size, spec.decode)
    if spec.augmentation.flip and draw.uniform("flip") < 0.5:
        # By torch, whose kernel moves whole vectors: numpy goes byte by byte, a third of what such an image cost.
        return torch.from_numpy(pixels_HWC).flip(1).numpy(), replace(crop, flipped=True)
    return pixels_HWC, crop


def center_image(data: bytes, max_pixels: int, size: int) -> tuple[Uint8Array, Crop]:
    """The centred square of the shorter side: uint8 [size, size, 3]; nothing is drawn, and decoding is exact.

    Raises BadSampleError: ``image_undecodable`` or ``image_too_large``.
    """
    image = open_image(data, max_pixels)
    side = min(image.width, image.height)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _resize(image, (left, top, left + side, top + side), size, "exact")


def _resize(image: JpegImage | PixelImage, box: Box, size: int, decode: Decode) -> tuple[Uint8Array, Crop]:
    """The box as a square of ``size``; its borders move to the nearest ones between pixels that were read."""
    left, top, right, bottom = box
    side = min(right - left, bottom - top)
    enough = _LEAST_PIXELS[decode] * size
    times = next((times for times in (8, 4, 2) if side >= times * enough), 1)
    pixels_HWC = image.read_pixels(times, bottom if decode == "fast" else None)
    if pixels_HWC.shape[1] == image.width:  # read whole after all
        times = 1
    mirrored_x, mirrored_y = image.mirrored
    low_x, high_x, start_x = _span(left, right, image.width, pixels_HWC.shape[1], times, mirrored_x)
    low_y, high_y, start_y = _span(top, bottom, image.height, pixels_HWC.shape[0], times, mirrored_y)
    borders = (start_x + low_x * times, start_y + low_y * times, start_x + high_x * times, start_y + high_y * times)
    crop_HWC = pixels_HWC[low_y:high_y, low_x:high_x]
    # A reshape, not None: the stride of the first axis tells torch that channels come last, so it copies nothing.
    crop_1CHW = np.ascontiguousarray(crop_HWC).reshape(1, *crop_HWC.shape).transpose(0, 3, 1, 2)
    square_1CHW = interpolate(torch.from_numpy(crop_1CHW), (size, size), mode="bicubic", antialias=True)
    square_HWC: Uint8Array = square_1CHW.numpy()[0].transpose(1, 2, 0)
    return square_HWC, Crop(image.width, image.height, *borders)


def _span(low: int, high: int, length: int, num_read: int, times: int, mirrored: bool) -> tuple[int, int, int]:
    """The pixels that were read of [low, high), first and stop, and where the first of all begins.

    Each is ``times`` pixels of the image, from where its stored columns or rows begin, and the last one hangs over.
    """
    start = length - num_read * times if mirrored else 0
    return round((low - start) / times), round((high - start) / times), start


def crop_box(width: int, height: int, augmentation: AugmentationSpec, draw: SampleDraw) -> Box:
    """The random-resized crop of an image."""
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
    crop_width = max(1, min(width, round(height * ratio)))
    crop_height = max(1, min(height, round(width / ratio)))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height
