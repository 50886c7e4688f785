"""open_clip's names for SigLIP: a vision tower of timm (``visual.trunk.``), and open_clip's own text tower.

https://github.com/mlfoundations/open_clip (``timm_model.py``, ``transformer.py``) and
https://github.com/huggingface/pytorch-image-models (``vision_transformer.py``, ``attention_pool.py``). timm keeps the
query of its attention pooling apart from keys and values, and positions with a batch dimension.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import ModelSourceError
from orchestrator.models.layouts.blocks import OPEN_CLIP, TIMM, BlockNames, layers_of
from orchestrator.models.layouts.open_clip import preprocess_config, text_config
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import PRESETS, ModelSize

logger = logging.getLogger(__name__)

_KINDS = ("weight", "bias")
_MODULES = {
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp.fc1": "visual.trunk.attn_pool.mlp.fc1",
    "vision_model.head.mlp.fc2": "visual.trunk.attn_pool.mlp.fc2",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
}
_PLAIN = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in _MODULES.items() for kind in _KINDS} | {
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
}
_IMAGE_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_THEIR_IMAGE_POSITIONS = "visual.trunk.pos_embed"
_SCALARS = ("logit_scale", "logit_bias")
_POOLING = "visual.trunk.attn_pool."
_OUR_POOLING = "vision_model.head.attention.in_proj_"
_LAYERS: dict[str, tuple[str, BlockNames]] = {
    "visual.trunk.blocks": ("vision_model", TIMM),
    "text.transformer.resblocks": ("text_model", OPEN_CLIP),
}

TIMM_TOWERS = {
    (32, 768): ("vit_base_patch32_siglip", (256,)),
    (16, 768): ("vit_base_patch16_siglip", (224, 256, 384, 512)),
    (16, 1024): ("vit_large_patch16_siglip", (256, 384, 512)),
    (14, 1152): ("vit_so400m_patch14_siglip", (224, 378, 384)),
    (16, 1152): ("vit_so400m_patch16_siglip", (256, 384, 512)),
}
"""timm's towers by patch size and width: their names, and pixels a side."""
_TIMM_WITH_TANH = (
    "vit_base_patch32_siglip_256",
    "vit_large_patch16_siglip_512",
    "vit_so400m_patch16_siglip_256",
    "vit_so400m_patch16_siglip_384",
    "vit_so400m_patch16_siglip_512",
)
"""Those that compute GELU by way of tanh; the others exactly, though SigLIP's released weights were not trained so."""
_LAYER = re.compile(rf"({'|'.join(map(re.escape, _LAYERS))})\.(\d+)\.(.+)")


def is_open_clip_siglip(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of open_clip's SigLIP."""
    return f"{_POOLING}latent" in state


def from_open_clip_siglip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Under the names of a ``SiglipModel``, and what has none."""
    plain = {theirs: ours for ours, theirs in _PLAIN.items()} | {name: name for name in _SCALARS}
    converted: dict[str, Tensor] = {}
    unknown = []
    pooling = {f"{_POOLING}{part}.{kind}" for part in ("q", "kv") for kind in _KINDS}
    for name, tensor in state.items():
        if name in plain:
            converted[plain[name]] = tensor
        elif name == _THEIR_IMAGE_POSITIONS:
            converted[_IMAGE_POSITIONS] = tensor[0]
        elif match := _LAYER.fullmatch(name):
            tower, names = _LAYERS[match[1]]
            parts = names.ours(match[3], tensor)
            converted |= {f"{tower}.encoder.layers.{match[2]}.{part}": value for part, value in parts.items()}
            unknown += [] if parts else [name]
        elif name not in pooling:
            unknown.append(name)
    for kind in _KINDS:  # what is absent is missed when the tower is filled
        fused = [state[name] for name in (f"{_POOLING}q.{kind}", f"{_POOLING}kv.{kind}") if name in state]
        converted |= {f"{_OUR_POOLING}{kind}": torch.cat(fused)} if fused else {}
    return converted, unknown


def to_open_clip_siglip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``SiglipModel``'s weights under open_clip's names."""
    converted = {theirs: state[ours] for ours, theirs in _PLAIN.items()}
    converted |= {name: state[name].reshape(()) for name in _SCALARS}
    converted[_THEIR_IMAGE_POSITIONS] = state[_IMAGE_POSITIONS].unsqueeze(0)
    for kind in _KINDS:
        query, key_value = state[f"{_OUR_POOLING}{kind}"].tensor_split([len(state[f"{_OUR_POOLING}{kind}"]) // 3])
        converted |= {f"{_POOLING}q.{kind}": query.clone(), f"{_POOLING}kv.{kind}": key_value.clone()}
    for theirs, (tower, names) in _LAYERS.items():
        for number, layer in layers_of(state, tower):
            converted |= {f"{theirs}.{number}.{name}": tensor for name, tensor in names.theirs(layer)}
    return converted


def open_clip_siglip_config(plan: ModelPlan) -> dict[str, Any]:
    """``open_clip_config.json`` for a folder that also holds the tokenizer's files.

    Raises:
        ModelSourceError: timm has no such vision tower; it knows them by name alone.
    """
    size = PRESETS[plan.preset]
    model = {
        "embed_dim": size.vision.width,
        "init_logit_bias": 0.0,  # any number makes room for the weight
        "custom_text": True,
        "vision_cfg": {
            "image_size": plan.image_size,
            "timm_model_name": _timm_name(size, plan.variant, plan.image_size),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **text_config(plan),
            "mlp_ratio": size.text.mlp_width / size.text.width,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh" if plan.variant == "siglip" else "none"},
        },
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess_config(plan)}


def _timm_name(size: ModelSize, variant: str, image_size: int) -> str:
    if variant == "openai":
        raise ModelSourceError("timm has no SigLIP tower with quick GELU (variant 'openai'); use --format huggingface")
    stem, image_sizes = TIMM_TOWERS.get((size.patch_size, size.vision.width), ("", ()))
    if image_size not in image_sizes:
        sizes = f"at {', '.join(map(str, image_sizes))} pixels alone" if image_sizes else "not at all"
        raise ModelSourceError(
            f"open_clip takes SigLIP's vision towers from timm by name, which has those of width {size.vision.width} "
            f"with patches of {size.patch_size} {sizes}, and this one has {image_size}; use --format huggingface"
        )
    name = f"{stem}_{image_size}"
    if (variant == "siglip") != (name in _TIMM_WITH_TANH):
        theirs = "by way of tanh" if name in _TIMM_WITH_TANH else "exactly"
        logger.warning("timm's %s computes GELU %s, this model does not: features differ a little", name, theirs)
    return name
