"""Colours of a batch changed at random, on the training device: jitter, grey, and RandAugment without its shifts.

What is drawn belongs to the sample (``data/draw.py``), so it gets the same at any world size and in a resume. Values
stay in [0, 255] between operations and are rounded once, at the end. A hue is turned in YIQ, by one matrix for each
image, where others go through HSV.

Legend: B rows of a micro batch, H W image, 3 (and C) red, green, blue, N rows of one operation.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from orchestrator.data.draw import BlockDraws
from orchestrator.spec.augmentation import AugmentationSpec, ColorJitterSpec, RandAugmentSpec

_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])

Operation = Callable[[Tensor, Tensor, float], Tensor]
"""Images fp32 [N, H, W, 3], a sign each [N, 1, 1, 1], strength 0 to 1: changed images."""


def augment_colors(image_BHW3: Tensor, spec: AugmentationSpec, draws: BlockDraws) -> Tensor:
    """uint8 [B, H, W, 3] to the same, by what ``spec`` asks for."""
    if spec.color_jitter is None and spec.grayscale == 0 and spec.rand_augment is None:
        return image_BHW3
    pixels = image_BHW3.float()
    if spec.color_jitter is not None:
        pixels = _jitter(pixels, spec.color_jitter, draws)
    if spec.grayscale > 0:
        pixels = _replace(pixels, draws.uniform("grayscale", 1)[:, 0] < spec.grayscale, _gray)
    if spec.rand_augment is not None:
        pixels = _rand_augment(pixels, spec.rand_augment, draws)
    return pixels.round_().to(torch.uint8)


def _jitter(pixels: Tensor, spec: ColorJitterSpec, draws: BlockDraws) -> Tensor:
    uniform_B5 = torch.from_numpy(draws.uniform("color_jitter", 5)).float().to(pixels.device)
    is_changed_B = uniform_B5[:, 4] < spec.probability
    brightness, contrast, saturation, hue = (2 * uniform_B5[:, :4] - 1)[:, :, None, None, None].unbind(1)
    changed = (pixels * (1 + spec.brightness * brightness)).clamp(0, 255)
    changed = _blend(_mean_gray(changed), changed, 1 + spec.contrast * contrast)
    changed = _blend(_gray(changed), changed, 1 + spec.saturation * saturation)
    changed = _turn_hue(changed, 2 * math.pi * spec.hue * hue.flatten())
    return torch.where(is_changed_B[:, None, None, None], changed, pixels)


def _rand_augment(pixels: Tensor, spec: RandAugmentSpec, draws: BlockDraws) -> Tensor:
    chosen = draws.uniform("rand_augment", 2 * spec.num_operations)
    for number in range(spec.num_operations):
        operation_B = (chosen[:, 2 * number] * len(_OPERATIONS)).astype(np.int64)
        sign_B = torch.from_numpy(np.where(chosen[:, 2 * number + 1] < 0.5, -1.0, 1.0)).float().to(pixels.device)
        for index, operation in enumerate(_OPERATIONS):
            rows = np.flatnonzero(operation_B == index)
            if len(rows):
                rows_N = torch.from_numpy(rows).to(pixels.device)
                changed = operation(pixels[rows_N], sign_B[rows_N, None, None, None], spec.magnitude / 10)
                pixels = pixels.index_copy(0, rows_N, changed)
    return pixels


def _replace(pixels: Tensor, is_changed_B: np.ndarray, change: Callable[[Tensor], Tensor]) -> Tensor:
    chosen_B = torch.from_numpy(is_changed_B).to(pixels.device)
    return torch.where(chosen_B[:, None, None, None], change(pixels), pixels)


def _blend(base: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """``base`` at factor 0, ``pixels`` at 1, and beyond."""
    return (base + (pixels - base) * factor).clamp(0, 255)


def _gray(pixels: Tensor) -> Tensor:
    luma = (pixels * pixels.new_tensor(_LUMA)).sum(dim=3, keepdim=True)
    return luma.expand_as(pixels)


def _mean_gray(pixels: Tensor) -> Tensor:
    return _gray(pixels).mean(dim=(1, 2), keepdim=True)


def _turn_hue(pixels: Tensor, angle_B: Tensor) -> Tensor:
    to_yiq = _TO_YIQ.to(pixels.device)
    turn_BCC = torch.zeros(len(angle_B), 3, 3, device=pixels.device)
    turn_BCC[:, 0, 0] = 1
    turn_BCC[:, 1, 1] = turn_BCC[:, 2, 2] = angle_B.cos()
    turn_BCC[:, 1, 2], turn_BCC[:, 2, 1] = -angle_B.sin(), angle_B.sin()
    matrix_BCC = torch.linalg.inv(to_yiq) @ turn_BCC @ to_yiq
    return torch.einsum("bhwc,bdc->bhwd", pixels, matrix_BCC).clamp(0, 255)


def _identity(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    return pixels


def _brightness(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    return (pixels * (1 + 0.9 * strength * sign)).clamp(0, 255)


def _color(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    return _blend(_gray(pixels), pixels, 1 + 0.9 * strength * sign)


def _contrast(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    return _blend(_mean_gray(pixels), pixels, 1 + 0.9 * strength * sign)


def _sharpness(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    around = avg_pool2d(pixels.permute(0, 3, 1, 2), 3, stride=1, padding=1, count_include_pad=False)
    blurred = (9 * around.permute(0, 2, 3, 1) + 4 * pixels) / 13  # Pillow's filter: 1 around, 5 at the centre
    return _blend(blurred, pixels, 1 + 0.9 * strength * sign)


def _posterize(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    step = 2 ** round(4 * strength)
    return (pixels / step).floor() * step


def _solarize(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    return torch.where(pixels >= 255 * (1 - strength), 255 - pixels, pixels)


def _autocontrast(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    low, high = pixels.amin(dim=(1, 2), keepdim=True), pixels.amax(dim=(1, 2), keepdim=True)
    stretched = (pixels - low) * (255 / (high - low).clamp(min=1e-6))
    return torch.where(high > low, stretched, pixels).clamp(0, 255)


def _equalize(pixels: Tensor, sign: Tensor, strength: float) -> Tensor:
    """Each channel's values by their rank among the channel's values."""
    num, height, width, channels = pixels.shape
    level_NCP = pixels.round().long().permute(0, 3, 1, 2).reshape(num, channels, height * width)
    counts = torch.zeros(num, channels, 256, device=pixels.device).scatter_add_(
        2, level_NCP, torch.ones_like(level_NCP, dtype=torch.float32)
    )
    below = counts.cumsum(dim=2) - counts
    last = counts.flip(2).ne(0).float().argmax(dim=2, keepdim=True)  # of the highest level that occurs
    span = height * width - counts.gather(2, 255 - last)
    table = torch.where(span > 0, below * 255 / span.clamp(min=1), torch.arange(256.0, device=pixels.device))
    return table.gather(2, level_NCP).view(num, channels, height, width).permute(0, 2, 3, 1)


_OPERATIONS: tuple[Operation, ...] = (
    _identity,
    _autocontrast,
    _equalize,
    _brightness,
    _color,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
)
