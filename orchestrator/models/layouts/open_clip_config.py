"""What ``open_clip_config.json`` may say of a model whose towers are computed here.

Keys as in open_clip 3.3 (``CLIPVisionCfg``, ``CLIPTextCfg``: https://github.com/mlfoundations/open_clip, ``model.py``).
Most of them change what is computed and leave no trace among the weights, so another value is refused, never passed by.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import ModelSourceError


@dataclass(frozen=True)
class _Keys:
    """What one tower's part of the configuration may hold."""

    values: Mapping[str, tuple[Any, ...]]
    """Values that are supported, by key."""
    free: frozenset[str]
    """Keys that may have any value: sizes (models/sizes.py reads them off the weights), or of no effect here."""
    required: tuple[str, ...] = ()
    """Keys that must be there, since open_clip's default is not supported."""


_NOTHING: tuple[Any, ...] = (None, {})
_SWITCHES = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
_PLAIN: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys((*_SWITCHES, "final_ln_after_pool"), (False,)),
    "ls_init_value": (None,),
    "block_type": (None, "default"),
    "act_kwargs": _NOTHING,
    "norm_kwargs": (*_NOTHING, {"eps": 1e-5}),
}
_TIMM = {"timm_model_pretrained", "timm_proj_bias", "timm_drop", "timm_drop_path"}
_CLIP_VISION = _Keys(
    {
        **_PLAIN,
        **dict.fromkeys(("attentional_pool", "global_average_pool", "input_patchnorm", "no_ln_pre"), (False,)),
        "timm_model_name": (None, ""),
        "pos_embed_type": ("learnable",),
        "pool_type": ("tok",),
    },
    frozenset(
        {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "patch_dropout", "output_tokens"}
        | {"attn_pooler_queries", "attn_pooler_heads", "timm_pool", "timm_proj", *_TIMM}
    ),
)
_CLIP_TEXT = _Keys(
    {
        **_PLAIN,
        **dict.fromkeys(("embed_cls", "no_causal_mask", "proj_bias"), (False,)),
        "hf_model_name": (None, ""),
        "pool_type": ("argmax", "eos"),
        "proj_type": ("linear",),
    },
    frozenset(
        {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pad_id", "eos_id", "output_tokens"}
        | {"hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"}
        | {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}
    ),
)
_SIGLIP_VISION = _Keys(
    {"timm_pool": ("map",), "timm_proj": ("none", "")},
    frozenset({"timm_model_name", "image_size", "patch_dropout", "output_tokens", *_TIMM}),
    required=("timm_pool", "timm_proj"),
)
_SIGLIP_TEXT = _Keys(
    {
        **_CLIP_TEXT.values,
        **dict.fromkeys(("no_causal_mask", "proj_bias"), (True,)),
        "pool_type": ("last",),
        "act_kwargs": (*_NOTHING, {"approximate": "tanh"}, {"approximate": "none"}),  # as the variant says
        "norm_kwargs": ({"eps": 1e-6},),
    },
    _CLIP_TEXT.free,
    required=("no_causal_mask", "proj_bias", "pool_type", "norm_kwargs"),
)


def check_open_clip_config(source: str, model: Mapping[str, Any], is_siglip: bool) -> None:
    """Whether ``model_cfg`` describes the towers that its weights are taken for.

    Raises:
        ModelSourceError: a key that is not known, or a value that is not supported; names all, and what would be.
    """
    vision, text = (_SIGLIP_VISION, _SIGLIP_TEXT) if is_siglip else (_CLIP_VISION, _CLIP_TEXT)
    problems = [*_problems("vision_cfg", model, vision), *_problems("text_cfg", model, text)]
    if is_siglip and model.get("quick_gelu"):
        problems.append("quick_gelu is True, which with timm's tower is the text tower's alone; supported: False")
    if problems:
        raise ModelSourceError(
            f"{source}: its open_clip_config.json describes other towers than there are here: {'; '.join(problems)}"
        )


def _problems(part: str, model: Mapping[str, Any], keys: _Keys) -> Iterator[str]:
    given = model.get(part, {})
    for key, value in given.items():
        if key in keys.values and value not in keys.values[key]:
            yield f"{part}.{key} is {value!r}, supported: {_say(keys.values[key])}"
        elif key not in keys.values and key not in keys.free:
            yield f"{part}.{key} is not known with these towers (it is {value!r})"
    for key in keys.required:
        if key not in given:
            yield f"{part}.{key} is absent, supported: {_say(keys.values[key])}"


def _say(values: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, values))
