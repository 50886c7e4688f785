"""Normalised pixels against the definition, in float64."""

import numpy as np
import torch

from orchestrator.models.pixels import normalize_pixels
from orchestrator.spec.presets import CLIP_PIXELS, VARIANTS


def test_pixels_are_normalised_per_colour_and_channels_come_first() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    expected = (image / 255 - np.array(CLIP_PIXELS.mean)) / np.array(CLIP_PIXELS.std)
    result = normalize_pixels(torch.from_numpy(image), CLIP_PIXELS)
    assert result.dtype == torch.float32
    assert result.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(result.numpy(), expected.transpose(0, 3, 1, 2), atol=2e-6)
    unit = normalize_pixels(torch.from_numpy(image), VARIANTS["corenet"].pixels)
    np.testing.assert_allclose(unit.numpy(), image.transpose(0, 3, 1, 2) / 255, atol=2e-7)
