"""A checkpoint as files that other programs open: their names, their configuration, their way with pixels.

    huggingface   config.json, model.safetensors, preprocessor_config.json     `transformers`' from_pretrained
                  head.safetensors     tensors that have no place in that model, by the objective's names
    open_clip     open_clip_config.json, open_clip_model.safetensors           open_clip's ``local-dir:``

Owns neither tokenizer nor vocabulary: whoever calls puts them beside.
"""

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from transformers import CLIPModel, SiglipModel

from orchestrator.errors import ModelSourceError
from orchestrator.models.layouts import open_clip
from orchestrator.models.layouts.open_clip_siglip import open_clip_siglip_config, to_open_clip_siglip
from orchestrator.models.source import HEAD_FILE
from orchestrator.objectives.objective import Export, Objective
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import VARIANTS, PixelStatistics
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint_folders import StoredCheckpoint
from orchestrator.training.stored_tensors import load_weights

ExportFormat = Literal["huggingface", "open_clip"]

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
    if VARIANTS[model.variant].has_conv_stem:
        raise ModelSourceError(
            f"variant '{model.variant}' has a stem of convolutions, for which neither transformers nor open_clip has "
            f"a model; its checkpoint ({stored.record.uri}) can be evaluated, averaged and started from"
        )
    export = objective.export(load_weights(store, stored, average=weights == "ema"))
    if format == "open_clip":
        _write_open_clip(export, model, destination)
    else:
        _write_hugging_face(export, model, destination)


def _write_hugging_face(export: Export, model: ModelPlan, destination: Path) -> None:
    export.model.save_pretrained(destination)
    if export.head:
        save_file(export.head, destination / HEAD_FILE)
    processor = image_processor(model.image_size, VARIANTS[model.variant].pixels)
    (destination / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))


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
