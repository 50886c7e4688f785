"""Which preset a set of weights is: sizes are read off the shapes, heads (which leave no trace there) off a config."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orchestrator.errors import ModelSourceError
from orchestrator.spec.presets import PRESETS, ModelSize, TransformerSize

_EMBEDDINGS = "vision_model.embeddings."
_MLP = re.compile(r"(vision|text)_model\.encoder\.layers\.0\.mlp\.fc1\.weight")
_LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.")


def find_preset(source: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[str, int]:
    """Name of the preset, and pixels a side (of whole patches). ``config``: of Hugging Face or open_clip, or empty.

    Raises:
        ModelSourceError: no vision tower, or of a size that no preset has; says which.
    """
    positions = state.get(f"{_EMBEDDINGS}position_embedding.weight")
    # One convolution, or a stem of several whose strides are their kernels.
    kernels = [
        tensor.shape[-1]
        for name, tensor in state.items()
        if name.startswith(f"{_EMBEDDINGS}patch_embedding") and name.endswith("weight")
    ]
    if positions is None or not kernels:
        missing = "position_embedding.weight" if kernels else "patch_embedding.weight"
        raise ModelSourceError(f"{source}: holds no vision transformer: {_EMBEDDINGS}{missing} is missing")
    patch_size = math.prod(kernels)
    found = {"patch size": patch_size, **_read_sizes(state), **_read_heads(config)}
    for name, size in PRESETS.items():
        if found.items() <= _preset_sizes(size).items():
            return name, math.isqrt(len(positions)) * patch_size  # a class token's position adds one to a square
    raise ModelSourceError(
        f"{source}: no preset has its sizes ({', '.join(f'{key} {value}' for key, value in found.items())}); "
        f"there are {', '.join(PRESETS)} (orchestrator/spec/presets.py)"
    )


def has_siglip_towers(state: Mapping[str, Tensor]) -> bool:
    """Whether images are pooled by a learned query, as SigLIP's towers do."""
    return "vision_model.head.probe" in state


def _read_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    sizes = {"vision width": state[f"{_EMBEDDINGS}position_embedding.weight"].shape[1]}
    if (positions := state.get("text_model.embeddings.position_embedding.weight")) is not None:
        sizes["text width"] = positions.shape[1]
    if (projection := state.get("visual_projection.weight")) is not None:
        sizes["embedding width"] = len(projection)
    for name in state:
        if match := _LAYER.match(name):
            key = f"{match[1]} layers"
            sizes[key] = max(sizes.get(key, 0), int(match[2]) + 1)
        if match := _MLP.match(name):
            sizes[f"{match[1]} MLP width"] = len(state[name])
    return sizes


def _read_heads(config: Mapping[str, Any]) -> dict[str, int]:
    """Where a config says how many."""
    if "model_cfg" in config:
        vision, text = (config["model_cfg"].get(f"{tower}_cfg", {}) for tower in ("vision", "text"))
        heads = {"text heads": text.get("heads", 8)}
        if "timm_model_name" in vision:
            return heads
        return {**heads, "vision heads": vision.get("width", 768) // vision.get("head_width", 64)}
    heads = {"vision heads": config.get("vision_config", config).get("num_attention_heads")}
    heads["text heads"] = config.get("text_config", {}).get("num_attention_heads")
    return {key: number for key, number in heads.items() if number is not None}


def _preset_sizes(size: ModelSize) -> dict[str, int]:
    return {
        "patch size": size.patch_size,
        "embedding width": size.embedding_width,
        **{f"vision {key}": value for key, value in _transformer_sizes(size.vision).items()},
        **{f"text {key}": value for key, value in _transformer_sizes(size.text).items()},
    }


def _transformer_sizes(size: TransformerSize) -> dict[str, int]:
    return {"width": size.width, "layers": size.num_layers, "heads": size.num_heads, "MLP width": size.mlp_width}
