"""corenet's names for its vision transformer and its CLIP: https://github.com/apple/corenet, ``vit.py``, ``clip.py``.

Attention is fused; positions are [1, 1, patches, width] and the class token has none, so it gets zeros; the batch
norms of the stem are folded into the convolutions before them (``models/conv_stem.py``). All else is copied.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.models.layouts.blocks import CORENET

_STEM = "patch_emb."
_STEM_NORM_EPS = 1e-5  # of corenet's batch norms
_VISION_PLAIN = {
    "post_transformer_norm.weight": "vision_model.post_layernorm.weight",
    "post_transformer_norm.bias": "vision_model.post_layernorm.bias",
    "classifier.weight": "classifier.weight",
    "classifier.bias": "classifier.bias",
}
_TEXT_PLAIN = {
    "embedding_layer.weight": "text_model.embeddings.token_embedding.weight",
    "final_layer_norm.weight": "text_model.final_layer_norm.weight",
    "final_layer_norm.bias": "text_model.final_layer_norm.bias",
}
_LAYER = re.compile(r"transformer\.(\d+)\.(.+)")
_LEARNED_AUGMENTATION = "neural_augmentor."  # of training alone


def is_corenet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of corenet's vision transformer, alone or in its CLIP."""
    return any(name.removeprefix("image_encoder.").startswith(_STEM) for name in state)


def from_corenet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Under our names, and what has none; a classifier keeps its name."""
    vision = {name.removeprefix("image_encoder."): name for name in state if not name.startswith("text_encoder.")}
    text = {name.removeprefix("text_encoder."): name for name in state if name.startswith("text_encoder.")}
    converted = _stem({own: state[name] for own, name in vision.items() if own.startswith(_STEM)})
    unknown = []
    for own, name in vision.items():
        found = _vision_part(own, state[name])
        converted |= found
        is_known = found or own.startswith(_STEM) or _LEARNED_AUGMENTATION in own
        unknown += [] if is_known else [name]
    for own, name in text.items():
        found = _text_part(own, state[name])
        converted |= found
        unknown += [] if found else [name]
    return converted, unknown


def _vision_part(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "cls_token":
        return {"vision_model.embeddings.class_embedding": tensor.reshape(-1)}
    if name == "pos_embed.pos_embed.pos_embed":
        patches = tensor.reshape(tensor.shape[-2:])
        positions = torch.cat([torch.zeros_like(patches[:1]), patches])
        return {"vision_model.embeddings.position_embedding.weight": positions}
    if name == "classifier.proj":
        return {"visual_projection.weight": tensor.T.contiguous()}
    if name == "logit_scale":
        return {"logit_scale": tensor}
    if name in _VISION_PLAIN:
        return {_VISION_PLAIN[name]: tensor}
    return _layer_part("vision_model", name, tensor)


def _text_part(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "positional_embedding.pos_embed.pos_embed":
        return {"text_model.embeddings.position_embedding.weight": tensor.reshape(tensor.shape[-2:])}
    if name == "projection_layer":
        return {"text_projection.weight": tensor.T.contiguous()}
    if name in _TEXT_PLAIN:
        return {_TEXT_PLAIN[name]: tensor}
    return _layer_part("text_model", name, tensor)


def _layer_part(tower: str, name: str, tensor: Tensor) -> dict[str, Tensor]:
    match = _LAYER.fullmatch(name)
    parts = CORENET.ours(match[2], tensor) if match else {}
    return {f"{tower}.encoder.layers.{match[1]}.{part}": value for part, value in parts.items()} if match else {}


def _stem(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Three convolutions with a bias each; incomplete ones are left out, and missed when the tower is filled."""
    stem: dict[str, Tensor] = {}
    for theirs, ours in (("0", "0"), ("1", "2"), ("2", "4")):
        block = {name.removeprefix(f"{_STEM}{theirs}.block."): state[name] for name in state}
        weight, bias = block.get("conv.weight"), block.get("conv.bias")
        if weight is not None and all(f"norm.{part}" in block for part in ("weight", "bias", "running_mean")):
            scale = block["norm.weight"].double() / (block["norm.running_var"].double() + _STEM_NORM_EPS).sqrt()
            folded = weight.double() * scale.reshape(-1, 1, 1, 1)
            bias = (block["norm.bias"].double() - block["norm.running_mean"].double() * scale).float()
            weight = folded.float()
        prefix = f"vision_model.embeddings.patch_embedding.{ours}"
        stem |= {f"{prefix}.{kind}": value for kind, value in (("weight", weight), ("bias", bias)) if value is not None}
    return stem
