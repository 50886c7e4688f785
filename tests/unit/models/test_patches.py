"""Patch embeddings are those of `transformers`, at other sizes and with patches left out as well."""

import dataclasses

import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from orchestrator.models.patches import keeping, resize_positions
from orchestrator.models.towers import ModelBuild, build_projected_vision_tower
from orchestrator.spec.presets import PRESETS

NANO = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0)


@pytest.fixture(scope="module")
def tower() -> CLIPVisionModelWithProjection:
    return build_projected_vision_tower(NANO).eval()


@pytest.fixture(scope="module")
def theirs(tower: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    """The same weights in the model as `transformers` builds it."""
    model = CLIPVisionModelWithProjection(tower.config).eval()
    model.load_state_dict(tower.state_dict())
    return model


@pytest.mark.parametrize("size", [32, 16, 48])
@torch.no_grad()
def test_at_every_size_the_features_are_those_of_transformers(tower, theirs, size):
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = theirs(pixel_values=pixels, interpolate_pos_encoding=size != 32).image_embeds
    torch.testing.assert_close(tower(pixel_values=pixels).image_embeds, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_kept_patches_are_all_that_a_tower_sees_beside_the_class_token(tower):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    kept_BK = torch.tensor([[0, 5, 15], [1, 2, 3]])
    whole = tower(pixel_values=pixels).image_embeds
    with keeping([tower], kept_BK):
        some = tower(pixel_values=pixels).image_embeds
        changed = pixels.clone()
        changed[0, :, :8, 8:16] += 9  # patch 1 of the first image, which is left out there
        assert torch.equal(tower(pixel_values=changed).image_embeds, some)
        changed[1, :, :8, 8:16] += 9  # kept in the second
        assert not torch.equal(tower(pixel_values=changed).image_embeds[1], some[1])
    assert not torch.allclose(some, whole)
    with keeping([tower], torch.arange(16).expand(2, -1)):
        torch.testing.assert_close(tower(pixel_values=pixels).image_embeds, whole)
    assert torch.equal(tower(pixel_values=pixels).image_embeds, whole)


def test_positions_keep_their_place_at_another_size():
    rising_PD = torch.arange(16.0)[:, None].expand(-1, 4)
    resized = resize_positions(rising_PD, 8, 8)
    assert resized.shape == (64, 4)
    assert torch.all(resized.view(8, 8, 4)[:, 1:-2].diff(dim=1) > 0)
    assert resized.mean().item() == pytest.approx(rising_PD.mean().item(), abs=0.05)
    assert resize_positions(rising_PD, 4, 4) is rising_PD


def test_positions_are_trained_at_another_size():
    tower = build_projected_vision_tower(NANO)
    tower(pixel_values=torch.randn(1, 3, 16, 16)).image_embeds.sum().backward()
    assert tower.vision_model.embeddings.position_embedding.weight.grad[1:].abs().sum() > 0


@torch.no_grad()
def test_plain_attention_computes_what_the_fused_one_does(tower):
    plain = build_projected_vision_tower(dataclasses.replace(NANO, attention="eager")).eval()
    assert plain.config._attn_implementation == "eager"
    assert tower.config._attn_implementation == "sdpa"
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain(pixel_values=pixels).image_embeds, tower(pixel_values=pixels).image_embeds)
