"""What ``config.json`` may say of a `transformers` model whose towers are computed here.

Activations, norms and the token that captions are pooled at leave no trace among the weights, so another value than
there is here is refused, never passed by. What is absent has the default of ``CLIPConfig`` or ``SiglipConfig``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.errors import ModelSourceError

_DEFAULT_END_ID = 49_407
_GREATEST_AT = 2
"""As end id this means another thing to ``CLIPTextModel``: the greatest id of a caption."""


@dataclass(frozen=True)
class _Family:
    activations: tuple[str, ...]
    default_activation: str
    norm_eps: float


_CLIP = _Family(("gelu", "quick_gelu"), "quick_gelu", 1e-5)
_SIGLIP = _Family(("gelu_pytorch_tanh", "gelu", "quick_gelu"), "gelu_pytorch_tanh", 1e-6)


def hugging_face_activation(source: str, config: Mapping[str, Any], is_siglip: bool) -> str:
    """The activation of all towers, from ``config``, of a whole model or of a vision tower alone.

    Raises:
        ModelSourceError: a value that is not supported, or towers of two kinds; names all, and what would be.
    """
    family = _SIGLIP if is_siglip else _CLIP
    vision = config.get("vision_config", config)
    activation: str = vision.get("hidden_act", family.default_activation)
    problems = list(_problems("vision_config", vision, family, family.activations))
    if "text_config" in config:
        alike = (activation,) if activation in family.activations else family.activations
        problems += _problems("text_config", config["text_config"], family, alike)
    if problems:
        raise ModelSourceError(
            f"{source}: its config.json describes other towers than there are here: {'; '.join(problems)}"
        )
    return activation


def hugging_face_pooling(config: Mapping[str, Any]) -> int | Literal["greatest"]:
    """At which token id of a caption a ``CLIPTextModel`` of this configuration takes its output."""
    end_id: int = config.get("text_config", {}).get("eos_token_id", _DEFAULT_END_ID)
    return "greatest" if end_id == _GREATEST_AT else end_id


def _problems(part: str, given: Mapping[str, Any], family: _Family, activations: tuple[str, ...]) -> Iterator[str]:
    for key, default, supported in (
        ("hidden_act", family.default_activation, activations),
        ("layer_norm_eps", family.norm_eps, (family.norm_eps,)),
    ):
        if (value := given.get(key, default)) not in supported:
            yield f"{part}.{key} is {value!r}, supported: {', '.join(map(repr, supported))}"
