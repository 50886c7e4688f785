"""Pixels as they travel (uint8, rows of RGB) to what a vision tower reads; runs on the worker's device.

Legend: B batch, H W image.
"""

from functools import cache

import torch
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green and blue in [0, 1] over CLIP's training images (its released preprocessing)."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Their standard deviation."""


@torch.no_grad()
def normalize_pixels(image_BHW3: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to fp32 [B, 3, H, W] with mean 0 and deviation 1 over CLIP's training images.

    Stays in the memory order of its input (channels last), which convolutions take as it is.
    """
    scale, shift = _scale_and_shift(image_BHW3.device)
    return (image_BHW3.float() * scale + shift).permute(0, 3, 1, 2)


@cache
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept per device, since a fresh tensor would make every step wait for a copy; no buffers of a module, since
    # those are cast to bf16 together with its weights.
    mean, std = torch.tensor(CLIP_MEAN, dtype=torch.float64), torch.tensor(CLIP_STD, dtype=torch.float64)
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)
