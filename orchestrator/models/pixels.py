"""Pixels as they travel (uint8, rows of RGB) to what a vision tower reads; runs on the worker's device.

Legend: B batch, H W image.
"""

from functools import cache

import torch
from torch import Tensor

from orchestrator.spec.presets import PixelStatistics


@torch.no_grad()
def normalize_pixels(image_BHW3: Tensor, pixels: PixelStatistics) -> Tensor:
    """uint8 [B, H, W, 3] to fp32 [B, 3, H, W], less the mean and over the deviation that a tower is trained with: its
    ``pixels``.

    Stays in the memory order of its input (channels last), which convolutions take as it is.
    """
    scale, shift = _scale_and_shift(image_BHW3.device, pixels)
    return (image_BHW3.float() * scale + shift).permute(0, 3, 1, 2)


@cache
def _scale_and_shift(device: torch.device, pixels: PixelStatistics) -> tuple[Tensor, Tensor]:
    # Kept per device, since a fresh tensor would make every step wait for a copy; no buffers of a module, since
    # those are cast to bf16 together with its weights.
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (pixels.mean, pixels.std))
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)
