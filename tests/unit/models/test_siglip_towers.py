"""SigLIP's towers compute what `transformers` does with the same weights, at other sizes and with fewer patches too."""

import pytest
import torch
from transformers import SiglipVisionModel

from orchestrator.models.patches import keeping
from orchestrator.models.siglip_towers import build_siglip_text_tower, build_siglip_vision_tower
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.spec.presets import PRESETS

BUILD = ModelBuild(PRESETS["vit_tiny_64"], image_size=64, seed=0, tokens=TokenLayout(64, 8, 1, 3, 0))


def noise(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [64, 32, 96])
@torch.no_grad()
def test_at_every_size_the_features_are_those_of_transformers(size: int) -> None:
    tower = build_siglip_vision_tower(BUILD).eval()
    theirs = SiglipVisionModel(tower.config).eval()
    theirs.load_state_dict(tower.state_dict())
    expected = theirs(pixel_values=noise(size), interpolate_pos_encoding=size != 64).pooler_output
    torch.testing.assert_close(tower(pixel_values=noise(size)).pooler_output, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_patches_that_are_left_out_are_not_seen() -> None:
    tower, pixels = build_siglip_vision_tower(BUILD).eval(), noise(64)
    with keeping([tower], torch.tensor([[0, 5, 15], [1, 2, 3]])):
        some = tower(pixel_values=pixels).pooler_output
        pixels[:, :, :8, 8:16] += 9  # patch 1, which the second image keeps
        changed = tower(pixel_values=pixels).pooler_output
    assert torch.equal(changed[0], some[0])
    assert not torch.equal(changed[1], some[1])


@torch.no_grad()
def test_captions_are_pooled_at_the_last_position_and_read_in_both_directions() -> None:
    tower = build_siglip_text_tower(BUILD).eval()
    tokens = torch.tensor([[1, 9, 8, 3, 0, 0, 0, 0]])
    pooled, states = tower(input_ids=tokens).pooler_output, tower(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(pooled, tower.head(states[:, -1]))
    other = tower(input_ids=torch.tensor([[1, 9, 8, 3, 0, 0, 0, 5]])).last_hidden_state
    assert not torch.allclose(other[:, 0], states[:, 0])
    assert pooled.shape == (1, BUILD.size.vision.width)
