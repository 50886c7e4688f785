"""A checkpoint as files that other programs open: their names, their configuration, their way with pixels.

    huggingface   config.json, model.safetensors, preprocessor_config.json     `transformers`' from_pretrained
                  head.safetensors     tensors that have no place in that model, by the objective's names
    open_clip     open_clip_config.json, open_clip_model.safetensors           open_clip's ``local-dir:``
    corenet       corenet.safetensors, preprocessor_config.json                apple/corenet, by its own names
                  head.safetensors     as above

Owns neither tokenizer nor vocabulary: whoever calls puts them beside.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, SiglipModel
from transformers.utils.logging import disable_progress_bar

from orchestrator.errors import ModelSourceError
from orchestrator.models.layouts import corenet, open_clip
from orchestrator.models.layouts.open_clip_siglip import open_clip_siglip_config, to_open_clip_siglip
from orchestrator.models.source import HEAD_FILE, PROCESSOR_FILE
from orchestrator.objectives.adopt import names_in_a_model
from orchestrator.objectives.objective import Export, Objective
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import VARIANTS, PixelStatistics
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint_folders import StoredCheckpoint
from orchestrator.training.stored_tensors import load_weights

ExportFormat = Literal["huggingface", "open_clip", "corenet"]

_BICUBIC = 3  # Pillow's number, as preprocessor_config.json has it


def export_checkpoint(
    store: Store,
    stored: StoredCheckpoint,
    objective: Objective,
    model: ModelPlan,
    destination: Path,
    weights: Literal["raw", "ema"],
    format: ExportFormat = "huggingface",
) -> None:
    """Writes the fp32 weights of a checkpoint, below a run's ``store``, into the folder ``destination``.

    ``objective``: built as for the run from ``model``, with any weights.

    Raises:
        CheckpointError: a damaged file, or an average asked for that is not there.
        ModelSourceError: the format has no place for such a model.
    """
    if VARIANTS[model.variant].has_conv_stem != (format == "corenet"):
        raise ModelSourceError(_wrong_format(model.variant, format))
    state = load_weights(store, stored, average=weights == "ema")
    if format == "corenet":
        _write_corenet({names_in_a_model(name)[0]: tensor for name, tensor in state.items()}, model, destination)
    elif format == "open_clip":
        _write_open_clip(objective.export(state), model, destination)
    else:
        _write_hugging_face(objective.export(state), model, destination)


def format_of(variant: str) -> ExportFormat:
    """A format that every model with towers of the variant goes into."""
    return "corenet" if VARIANTS[variant].has_conv_stem else "huggingface"


def _wrong_format(variant: str, format: ExportFormat) -> str:
    if format == "corenet":
        return f"corenet has towers of its own variant alone, not of '{variant}'; use --format huggingface or open_clip"
    return (
        f"variant '{variant}' has a stem of convolutions, for which neither transformers nor open_clip has a model; "
        f"use --format corenet"
    )


def _write_hugging_face(export: Export, model: ModelPlan, destination: Path) -> None:
    disable_progress_bar()  # of a local write, a line for each file, also where nobody looks at a terminal
    export.model.save_pretrained(destination)
    _write_beside(export.head, model, destination)


def _write_corenet(state: Mapping[str, Tensor], model: ModelPlan, destination: Path) -> None:
    converted, head = corenet.to_corenet(state)
    save_file({name: tensor.contiguous() for name, tensor in converted.items()}, destination / corenet.WEIGHTS_FILE)
    _write_beside(head, model, destination)


def _write_beside(head: Mapping[str, Tensor], model: ModelPlan, destination: Path) -> None:
    if head:
        save_file(dict(head), destination / HEAD_FILE)
    processor = image_processor(model.image_size, VARIANTS[model.variant].pixels)
    (destination / PROCESSOR_FILE).write_text(json.dumps(processor, indent=2))


def _write_open_clip(export: Export, model: ModelPlan, destination: Path) -> None:
    state = export.model.state_dict() | export.head
    if isinstance(export.model, SiglipModel):
        config, weights = open_clip_siglip_config(model), to_open_clip_siglip(state)
    elif isinstance(export.model, CLIPModel) and export.head.keys() <= {"logit_bias"}:
        config = open_clip.open_clip_config(model, has_bias="logit_bias" in state)
        weights = open_clip.to_open_clip(state)
    else:
        held = " with ".join([type(export.model).__name__, *export.head])
        raise ModelSourceError(
            f"open_clip's format holds a CLIP or SigLIP, this run's model is {held}; use --format huggingface"
        )
    (destination / open_clip.CONFIG_FILE).write_text(json.dumps(config, indent=2))
    save_file(weights, destination / open_clip.WEIGHTS_FILE)


def image_processor(image_size: int, pixels: PixelStatistics) -> dict[str, Any]:
    """``preprocessor_config.json``: the centre of an image, as evaluation cuts it (data/image.py)."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }
