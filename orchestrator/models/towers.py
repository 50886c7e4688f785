"""Vision and text towers from `transformers` configurations, so that a trained one opens with ``from_pretrained``.

Owns which configuration a size stands for, the token ids that a text tower needs, and the way back to one
``CLIPModel``. What the towers are trained for is in ``objectives``; how weights start is in ``initialization``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
)

from orchestrator.errors import ModelSourceError
from orchestrator.models.conv_stem import ConvStem
from orchestrator.models.initialization import initialize_tower
from orchestrator.models.patches import use_patch_embeddings
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import PRESETS, VARIANTS, ModelSize, TowerVariant, TransformerSize

_LEGACY_END_ID = 2
"""At this end id `transformers` pools at the greatest token id instead of the end token (its CLIPTextModel)."""


@dataclass(frozen=True)
class TokenLayout:
    """What a text tower must know of its tokenizer; ``context`` counts the begin and the end token."""

    num_tokens: int
    context: int
    begin_id: int | None
    end_id: int
    pad_id: int


@dataclass(frozen=True)
class ModelBuild:
    """Everything that towers are built from. ``tokens`` is None where an objective reads no captions."""

    size: ModelSize
    image_size: int
    seed: int
    tokens: TokenLayout | None = None
    activation_checkpointing: bool = False
    attention: str = "sdpa"
    """Which of `transformers`' implementations."""
    variant: TowerVariant = VARIANTS["clip"]


def model_build(plan: ModelPlan, seed: int) -> ModelBuild:
    """What a Plan says about towers; a Plan without a tokenizer builds no text tower."""
    tokens = None
    if plan.tokenizer is not None:
        tokens = TokenLayout(
            num_tokens=plan.tokenizer.vocabulary_size,
            context=plan.context,
            begin_id=plan.tokenizer.begin_id,
            end_id=plan.tokenizer.end_id,
            pad_id=plan.tokenizer.pad_id,
        )
    return ModelBuild(
        PRESETS[plan.preset],
        plan.image_size,
        seed,
        tokens,
        plan.activation_checkpointing,
        plan.attention,
        VARIANTS[plan.variant],
    )


def build_vision_tower(build: ModelBuild) -> CLIPVisionModel:
    """A vision transformer that ends in its pooled class token [B, width]; same seed, same weights."""
    return finish_tower(CLIPVisionModel, vision_config(build), build)


def build_projected_vision_tower(build: ModelBuild) -> CLIPVisionModelWithProjection:
    """The same tower, and the same weights from the same seed, with a projection to the shared space."""
    return finish_tower(CLIPVisionModelWithProjection, vision_config(build), build)


def build_text_tower(build: ModelBuild) -> CLIPTextModelWithProjection:
    """A causal text transformer that is pooled at the first end token, with a projection to the shared space.

    Raises ModelSourceError for token ids with which captions would be pooled at the wrong position.
    """
    return finish_tower(CLIPTextModelWithProjection, text_config(build), build)


def vision_config(build: ModelBuild) -> CLIPVisionConfig:
    """The configuration of the vision tower, as an export saves it."""
    return CLIPVisionConfig(
        **transformer_options(build.size.vision, build.variant),
        layer_norm_eps=build.variant.vision_norm_eps,
        image_size=build.image_size,
        patch_size=build.size.patch_size,
        projection_dim=build.size.embedding_width,
    )


def text_config(build: ModelBuild) -> CLIPTextConfig:
    """The configuration of the text tower, as an export saves it; raises as ``build_text_tower`` does."""
    assert build.tokens is not None, "an objective that reads captions is built with its tokenizer's ids"
    tokens = build.tokens
    check_token_ids(tokens)
    return CLIPTextConfig(
        **transformer_options(build.size.text, build.variant),
        vocab_size=tokens.num_tokens,
        max_position_embeddings=tokens.context,
        projection_dim=build.size.embedding_width,
        bos_token_id=tokens.begin_id,
        eos_token_id=tokens.end_id,
        pad_token_id=tokens.pad_id,
    )


def join_clip_model(
    vision: CLIPVisionModelWithProjection,
    text: CLIPTextModelWithProjection,
    vision_state: Mapping[str, Tensor],
    text_state: Mapping[str, Tensor],
    logit_scale: Tensor,
) -> CLIPModel:
    """One ``CLIPModel`` with the configurations of two towers and the given weights (their names are the same)."""
    config = CLIPConfig(
        text_config=text.config.to_dict(),
        vision_config=vision.config.to_dict(),
        projection_dim=vision.config.projection_dim,
    )
    model = CLIPModel(config)
    model.load_state_dict({**vision_state, **text_state, "logit_scale": logit_scale.reshape(())})
    return model


def transformer_options(size: TransformerSize, variant: TowerVariant) -> dict[str, Any]:
    """What configurations of all towers call a size."""
    return {
        "hidden_size": size.width,
        "intermediate_size": size.mlp_width,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "hidden_act": variant.activation,
    }


def check_token_ids(tokens: TokenLayout) -> None:
    """Raises ModelSourceError for token ids with which a text tower would fail, or pool at the wrong position."""
    ids = {"begin": tokens.begin_id, "end": tokens.end_id, "pad": tokens.pad_id}
    outside = {name: value for name, value in ids.items() if value is not None and not 0 <= value < tokens.num_tokens}
    if outside:
        raise ModelSourceError(
            f"The tokenizer's ids {outside} lie outside of its {tokens.num_tokens} tokens; "
            "name another tokenizer in text.tokenizer"
        )
    if tokens.begin_id == tokens.end_id:
        raise ModelSourceError(
            f"The tokenizer begins and ends a caption with the same token ({tokens.end_id}): every caption would be "
            "pooled at its first position; name a tokenizer with two different tokens in text.tokenizer"
        )
    if tokens.end_id == _LEGACY_END_ID:
        raise ModelSourceError(
            f"The tokenizer's end token has the id {_LEGACY_END_ID}, at which transformers' CLIP text tower pools at "
            "the greatest token id instead of the end; name a tokenizer with another end id in text.tokenizer"
        )


def finish_tower(tower_class: Any, config: Any, build: ModelBuild) -> Any:
    """A tower of a `transformers` class with fresh weights."""
    # The constructor draws from torch's global generator; whoever calls us keeps theirs.
    with torch.random.fork_rng(devices=[]):
        tower = tower_class._from_config(config, attn_implementation=build.attention)
        if isinstance(config, CLIPVisionConfig | SiglipVisionConfig):
            use_patch_embeddings(tower)
            tower.pixels = build.variant.pixels
        if isinstance(config, CLIPVisionConfig) and build.variant.has_conv_stem:
            _use_conv_stem(tower, build)
    initialize_tower(tower, config, build.seed)
    if build.activation_checkpointing:
        tower.activation_checkpointing_enable({"use_reentrant": False})
    return tower


def _use_conv_stem(tower: Any, build: ModelBuild) -> None:
    inner = getattr(tower, "vision_model", tower)
    inner.embeddings.patch_embedding = ConvStem(build.size.vision.width, build.size.patch_size)
    inner.pre_layrnorm = nn.Identity()
