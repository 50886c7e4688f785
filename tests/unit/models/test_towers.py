"""Towers are the models they claim to be: sizes, pooling, determinism, and the way back to `transformers`."""

import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from orchestrator.errors import ModelSourceError
from orchestrator.models.towers import (
    ModelBuild,
    TokenLayout,
    build_projected_vision_tower,
    build_text_tower,
    build_vision_tower,
    text_config,
    vision_config,
)
from orchestrator.spec.presets import PRESETS

BEGIN, END, PAD = 1, 3, 0
TOKENS = TokenLayout(num_tokens=64, context=12, begin_id=BEGIN, end_id=END, pad_id=PAD)
NANO = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=TOKENS)


def caption(*words: int) -> Tensor:
    """[1, T]: begin, words, end, padding."""
    ids = [BEGIN, *words, END]
    return torch.tensor([ids + [PAD] * (TOKENS.context - len(ids))], dtype=torch.int32)


@pytest.mark.parametrize(
    ("preset", "million_parameters"), [("vit_b32", 151.28), ("vit_b16", 149.62), ("vit_l14", 427.62)]
)
def test_presets_have_the_published_number_of_parameters(preset: str, million_parameters: float) -> None:
    tokens = TokenLayout(num_tokens=49408, context=77, begin_id=49406, end_id=49407, pad_id=0)
    build = ModelBuild(PRESETS[preset], image_size=224, seed=0, tokens=tokens)
    with torch.device("meta"):
        towers = [CLIPVisionModelWithProjection(vision_config(build)), CLIPTextModelWithProjection(text_config(build))]
    count = sum(parameter.numel() for tower in towers for parameter in tower.parameters())
    assert (count + 1) / 1e6 == pytest.approx(million_parameters, abs=0.01)


def test_captions_that_differ_in_any_word_have_different_features() -> None:
    tower = build_text_tower(NANO).eval()
    captions = torch.cat([caption(10, 11, 12), caption(20, 11, 12), caption(10, 11, 13), caption(10, 11)])
    with torch.no_grad():
        features = tower(input_ids=captions).text_embeds
    assert torch.pdist(features).min() > 1e-3


def test_a_caption_is_pooled_at_its_end_token() -> None:
    tower = build_text_tower(NANO).eval()
    with torch.no_grad():
        output = tower(input_ids=caption(63, 11, 12))  # 63 is the greatest id: the legacy pooling would take it
        expected = tower.text_projection(output.last_hidden_state[:, 4])
    torch.testing.assert_close(output.text_embeds, expected)


def test_what_follows_the_end_token_does_not_count() -> None:
    tower = build_text_tower(NANO).eval()
    plain = caption(10, 11)
    noisy = plain.clone()
    noisy[:, 4:] = torch.tensor([40, END, 41, 42, 43, 44, 45, 46])
    with torch.no_grad():
        torch.testing.assert_close(tower(input_ids=plain).text_embeds, tower(input_ids=noisy).text_embeds)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"end_id": 2}, "id 2"), ({"begin_id": END}, "same token"), ({"end_id": 64}, "outside"), ({"pad_id": -1}, "pad")],
)
def test_token_ids_that_pool_at_the_wrong_place_are_refused(change: dict[str, int], says: str) -> None:
    build = dataclasses.replace(NANO, tokens=dataclasses.replace(TOKENS, **change))
    with pytest.raises(ModelSourceError, match=says):
        build_text_tower(build)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_text_tower(NANO).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_text_tower(NANO).state_dict()
    other = build_text_tower(dataclasses.replace(NANO, seed=1)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["text_projection.weight"], other["text_projection.weight"])


def test_a_vision_tower_starts_the_same_with_and_without_a_projection() -> None:
    plain = build_vision_tower(NANO).state_dict()
    projected = build_projected_vision_tower(NANO).vision_model.state_dict()
    assert plain.keys() == projected.keys()
    assert all(torch.equal(plain[name], projected[name]) for name in plain)


def test_weights_start_with_the_deviations_of_the_clip_paper() -> None:
    size = PRESETS["vit_tiny_64"]
    build = ModelBuild(size, image_size=64, seed=0, tokens=TOKENS)
    layer = build_vision_tower(build).encoder.layers[0]
    width, residual = size.vision.width, (size.vision.width * 2 * size.vision.num_layers) ** -0.5
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(width**-0.5, rel=0.03)
    assert layer.self_attn.out_proj.weight.std().item() == pytest.approx(residual, rel=0.03)
    assert layer.mlp.fc1.weight.std().item() == pytest.approx((2 * width) ** -0.5, rel=0.03)
    assert layer.mlp.fc2.weight.std().item() == pytest.approx(residual, rel=0.03)
    assert layer.mlp.fc1.bias.abs().max() == 0
    assert torch.equal(layer.layer_norm1.weight, torch.ones(width))


def test_activation_checkpointing_runs_layers_again_and_changes_no_gradient() -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        tower = build_text_tower(dataclasses.replace(NANO, activation_checkpointing=checkpointing)).train()
        count: list[int] = []
        tower.text_model.encoder.layers[0].self_attn.register_forward_hook(lambda *_, count=count: count.append(1))
        tower(input_ids=caption(10, 11)).text_embeds.square().sum().backward()
        gradients.append(tower.text_model.embeddings.token_embedding.weight.grad)
        calls.append(len(count))
    assert calls == [1, 2]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_attention_is_fused() -> None:
    assert build_vision_tower(NANO).config._attn_implementation == "sdpa"
    assert build_text_tower(NANO).text_model.config._attn_implementation == "sdpa"
