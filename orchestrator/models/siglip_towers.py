"""SigLIP's towers from `transformers` configurations (arXiv 2303.15343; big_vision), in the sizes of the presets.

Images have no class token: a learned query attends to all patches (multi-head attention pooling, arXiv 2106.04560),
and its output is the embedding, without a projection. Captions attend in both directions, padding included, and are
pooled at the last position, whose output is projected to the vision tower's width.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import (
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from orchestrator.models.towers import ModelBuild, check_token_ids, finish_tower, transformer_options


def build_siglip_vision_tower(build: ModelBuild) -> SiglipVisionModel:
    """A vision transformer that ends in its pooled output [B, width]; same seed, same weights."""
    config = SiglipVisionConfig(
        **transformer_options(build.size.vision, build.variant),
        image_size=build.image_size,
        patch_size=build.size.patch_size,
    )
    return finish_tower(SiglipVisionModel, config, build)


def build_siglip_text_tower(build: ModelBuild) -> SiglipTextModel:
    """A text transformer that ends in its projected output [B, vision width].

    Raises ModelSourceError for token ids that lie outside of the tokenizer's vocabulary.
    """
    assert build.tokens is not None, "an objective that reads captions is built with its tokenizer's ids"
    check_token_ids(build.tokens)
    config = SiglipTextConfig(
        **transformer_options(build.size.text, build.variant),
        vocab_size=build.tokens.num_tokens,
        max_position_embeddings=build.tokens.context,
        projection_size=build.size.vision.width,
        bos_token_id=build.tokens.begin_id,
        eos_token_id=build.tokens.end_id,
        pad_token_id=build.tokens.pad_id,
    )
    return finish_tower(SiglipTextModel, config, build)


def join_siglip_model(
    vision: SiglipVisionModel,
    text: SiglipTextModel,
    vision_state: Mapping[str, Tensor],
    text_state: Mapping[str, Tensor],
    logit_scale: Tensor,
    logit_bias: Tensor,
) -> SiglipModel:
    """One ``SiglipModel`` with the configurations of two towers and the given weights."""
    model = SiglipModel(SiglipConfig(text_config=text.config.to_dict(), vision_config=vision.config.to_dict()))
    state = {f"vision_model.{name}": value for name, value in vision_state.items()}
    state |= {f"text_model.{name}": value for name, value in text_state.items()}
    # Positions are buffers that a full model makes anew.
    model.load_state_dict({**state, "logit_scale": logit_scale, "logit_bias": logit_bias})
    return model
