"""open_clip's and OpenAI's names: https://github.com/mlfoundations/open_clip, https://github.com/openai/CLIP.

Both store projections as [width, embedding], the transpose of ours. What is copied is copied bit for bit.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orchestrator.models.layouts.blocks import OPEN_CLIP, layers_of
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import PRESETS, VARIANTS

WEIGHTS_FILE, CONFIG_FILE = "open_clip_model.safetensors", "open_clip_config.json"
"""What open_clip looks for in a ``local-dir:``."""

_PLAIN = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_BIAS = "logit_bias"  # of a model that was trained by SigLIP's loss
_TOWERS = {"visual.": "vision_model", "": "text_model"}
_LAYER = re.compile(r"(visual\.|)transformer\.resblocks\.(\d+)\.(.+)")
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
"""Numbers and a mask that OpenAI's archives and older files of open_clip hold beside the weights."""


def is_open_clip(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of open_clip or OpenAI."""
    return "visual.conv1.weight" in state or "visual.proj" in state


def from_open_clip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Under our names, and what has none."""
    plain = {theirs: ours for ours, theirs in _PLAIN.items()}
    transposed = {theirs: ours for ours, theirs in _TRANSPOSED.items()}
    converted: dict[str, Tensor] = {}
    unknown = []
    for given, tensor in state.items():
        name = given.removeprefix("text.")  # where open_clip keeps the text tower apart ("custom_text")
        if name in plain or name == _BIAS:
            converted[plain.get(name, name)] = tensor
        elif name in transposed:
            converted[transposed[name]] = tensor.T.contiguous()
        elif match := _LAYER.fullmatch(name):
            prefix = f"{_TOWERS[match[1]]}.encoder.layers.{match[2]}."
            parts = OPEN_CLIP.ours(match[3], tensor)
            converted |= {prefix + part: value for part, value in parts.items()}
            unknown += [] if parts else [given]
        elif name not in _NO_WEIGHTS:
            unknown.append(given)
    return converted, unknown


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``CLIPModel``'s weights under open_clip's names, with the bias that SigLIP's loss has beside it, if any."""
    converted = {theirs: state[ours] for ours, theirs in _PLAIN.items()}
    converted |= {theirs: state[ours].T.contiguous() for ours, theirs in _TRANSPOSED.items()}
    if _BIAS in state:
        converted[_BIAS] = state[_BIAS].reshape(())
    for prefix, tower in _TOWERS.items():
        for number, layer in layers_of(state, tower):
            for name, tensor in OPEN_CLIP.theirs(layer):
                converted[f"{prefix}transformer.resblocks.{number}.{name}"] = tensor
    return converted


def open_clip_config(plan: ModelPlan, has_bias: bool) -> dict[str, Any]:
    """``open_clip_config.json`` for a folder that also holds the tokenizer's files.

    Args:
        plan: of a model with a tokenizer.
        has_bias: whether SigLIP's bias is among its weights.
    """
    assert plan.tokenizer is not None, "a model with captions has a tokenizer"
    size, variant = PRESETS[plan.preset], VARIANTS[plan.variant]
    model = {
        "embed_dim": size.embedding_width,
        "quick_gelu": variant.activation == "quick_gelu",
        **({"init_logit_bias": 0.0} if has_bias else {}),  # any number makes room for the weight
        "vision_cfg": {
            "image_size": plan.image_size,
            "patch_size": size.patch_size,
            "width": size.vision.width,
            "layers": size.vision.num_layers,
            "head_width": size.vision.width // size.vision.num_heads,
        },
        "text_cfg": {
            **text_config(plan),
            "pool_type": "eos",  # the default takes the greatest id, which is the end only in OpenAI's vocabulary
            "eos_id": plan.tokenizer.end_id,
        },
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess_config(plan)}


def text_config(plan: ModelPlan) -> dict[str, Any]:
    """What ``text_cfg`` says of any text tower: its size and its tokenizer."""
    assert plan.tokenizer is not None, "a model with captions has a tokenizer"
    tower = PRESETS[plan.preset].text
    return {
        "context_length": plan.context,
        "vocab_size": plan.tokenizer.vocabulary_size,
        "width": tower.width,
        "layers": tower.num_layers,
        "heads": tower.num_heads,
        "pad_id": plan.tokenizer.pad_id,
        "hf_tokenizer_name": ".",  # any name: open_clip then reads the files beside this one
    }


def preprocess_config(plan: ModelPlan) -> dict[str, Any]:
    """How open_clip makes pixels of an image: its centre, as evaluation cuts it (data/image.py)."""
    pixels = VARIANTS[plan.variant].pixels
    return {
        "size": plan.image_size,
        "mode": "RGB",
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
