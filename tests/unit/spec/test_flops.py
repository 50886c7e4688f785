"""Counted operations against the numbers that open_clip publishes for the same models."""

import pytest

from orchestrator.spec.flops import text_flops, vision_flops
from orchestrator.spec.presets import PRESETS


@pytest.mark.parametrize(("preset", "gigaflops"), [("vit_b32", 14.78), ("vit_b16", 41.09), ("vit_l14", 175.33)])
def test_flops_of_a_pair_are_the_published_ones(preset: str, gigaflops: float) -> None:
    size = PRESETS[preset]
    total = vision_flops(size, size.image_size, projection=True) + text_flops(size, context=77)
    assert total / 1e9 == pytest.approx(gigaflops, abs=0.01)
