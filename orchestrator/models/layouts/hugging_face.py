"""`transformers`' names: ``CLIPModel`` and ``SiglipModel``, or the vision tower of one of them alone."""

from collections.abc import Mapping

from torch import Tensor

_TOWERS = ("vision_model.", "text_model.")
_WHOLE = (
    "visual_projection.weight",
    "text_projection.weight",
    "logit_scale",
    "logit_bias",
    "classifier.weight",
    "classifier.bias",
)
_PATCHES = "embeddings.patch_embedding."
_POSITION_IDS = "embeddings.position_ids"  # counted up anew by every model


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a CLIP or SigLIP of `transformers`."""
    return any(name.removeprefix("vision_model.").startswith(_PATCHES) for name in state)


def from_hugging_face(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Under the names of a whole model, and what has none."""
    converted = {}
    unknown = []
    alone = any(name.startswith(_PATCHES) for name in state)
    for name, tensor in state.items():
        if name.endswith(_POSITION_IDS):
            continue
        if name in _WHOLE or name.startswith(_TOWERS):
            converted[name] = tensor
        elif alone:
            converted[f"vision_model.{name}"] = tensor
        else:
            unknown.append(name)
    return converted, unknown
