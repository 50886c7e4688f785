"""corenet's names for its vision transformer and its CLIP: https://github.com/apple/corenet, ``vit.py``, ``clip.py``.

Attention is fused; positions are [1, 1, patches, width] and the class token has none, so it gets zeros; the batch
norms of the stem are folded into the convolutions before them (``models/conv_stem.py``). All else is copied. On the way
back the batch norms change nothing, and the class token takes its position in.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.models.layouts.blocks import CORENET, layers_of

WEIGHTS_FILE = "corenet.safetensors"
"""Of an export; corenet itself has a file of any name."""

_STEM = "patch_emb."
_STEM_BLOCKS = (("0", "0"), ("1", "2"), ("2", "4"))
"""Their convolutions and ours; between ours lie activations."""
_PATCHES = "vision_model.embeddings.patch_embedding"
_IMAGE_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_TEXT_POSITIONS = "text_model.embeddings.position_embedding.weight"
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


def to_corenet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A vision transformer with its classifier, or a CLIP, under corenet's names; and what has no place there.

    Read again, it is the same bit for bit, but that a class token's position is then part of the class token.
    """
    converted = {**_to_stem(state), **_to_vision(state)}
    if _TEXT_POSITIONS in state:
        converted = {f"image_encoder.{name}": tensor for name, tensor in converted.items()}
        converted |= {f"text_encoder.{name}": tensor for name, tensor in _to_text(state).items()}
        # Without flash attention, as the released CLIP is.
        converted = {name.replace(".out_proj_attn.", ".out_proj."): value for name, value in converted.items()}
    if "logit_scale" in state:
        converted["logit_scale"] = state["logit_scale"].reshape(())
    left = set(state) - set(from_corenet(converted)[0])
    return converted, {name: state[name] for name in sorted(left)}


def _to_vision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    positions = state[_IMAGE_POSITIONS]
    class_token = state["vision_model.embeddings.class_embedding"] + positions[0]
    converted = {theirs: state[ours] for theirs, ours in _VISION_PLAIN.items() if ours in state}
    converted |= {
        "cls_token": class_token.reshape(1, 1, -1),
        "pos_embed.pos_embed.pos_embed": positions[None, None, 1:],
    }
    if "visual_projection.weight" in state:
        converted["classifier.proj"] = state["visual_projection.weight"].T
    return converted | _to_layers(state, "vision_model")


def _to_text(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = {theirs: state[ours] for theirs, ours in _TEXT_PLAIN.items()}
    converted["positional_embedding.pos_embed.pos_embed"] = state[_TEXT_POSITIONS][None, None]
    converted["projection_layer"] = state["text_projection.weight"].T
    return converted | _to_layers(state, "text_model")


def _to_layers(state: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    return {
        f"transformer.{number}.{name}": tensor
        for number, layer in layers_of(state, tower)
        for name, tensor in CORENET.theirs(layer)
    }


def _to_stem(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions, the first two without a bias: it is that of a batch norm which otherwise changes nothing."""
    stem: dict[str, Tensor] = {}
    for number, (theirs, ours) in enumerate(_STEM_BLOCKS):
        weight, bias = (state[f"{_PATCHES}.{ours}.{kind}"] for kind in ("weight", "bias"))
        block = {"conv.weight": weight}
        if number == len(_STEM_BLOCKS) - 1:
            block["conv.bias"] = bias
        else:
            ones = torch.ones_like(bias)
            # With this variance weights are scaled by 1 to within 2^-26, which no float notices.
            block |= {"norm.weight": ones, "norm.bias": bias, "norm.running_mean": torch.zeros_like(bias)}
            block |= {"norm.running_var": ones - _STEM_NORM_EPS, "norm.num_batches_tracked": torch.zeros(()).long()}
        stem |= {f"{_STEM}{theirs}.block.{name}": tensor for name, tensor in block.items()}
    return stem


def _vision_part(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "cls_token":
        return {"vision_model.embeddings.class_embedding": tensor.reshape(-1)}
    if name == "pos_embed.pos_embed.pos_embed":
        patches = tensor.reshape(tensor.shape[-2:])
        positions = torch.cat([torch.zeros_like(patches[:1]), patches])
        return {_IMAGE_POSITIONS: positions}
    if name == "classifier.proj":
        return {"visual_projection.weight": tensor.T.contiguous()}
    if name == "logit_scale":
        return {"logit_scale": tensor}
    if name in _VISION_PLAIN:
        return {_VISION_PLAIN[name]: tensor}
    return _layer_part("vision_model", name, tensor)


def _text_part(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "positional_embedding.pos_embed.pos_embed":
        return {_TEXT_POSITIONS: tensor.reshape(tensor.shape[-2:])}
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
    for theirs, ours in _STEM_BLOCKS:
        block = {name.removeprefix(f"{_STEM}{theirs}.block."): state[name] for name in state}
        weight, bias = block.get("conv.weight"), block.get("conv.bias")
        if weight is not None and all(f"norm.{part}" in block for part in ("weight", "bias", "running_mean")):
            scale = block["norm.weight"].double() / (block["norm.running_var"].double() + _STEM_NORM_EPS).sqrt()
            folded = weight.double() * scale.reshape(-1, 1, 1, 1)
            bias = (block["norm.bias"].double() - block["norm.running_mean"].double() * scale).float()
            weight = folded.float()
        prefix = f"{_PATCHES}.{ours}"
        stem |= {f"{prefix}.{kind}": value for kind, value in (("weight", weight), ("bias", bias)) if value is not None}
    return stem
