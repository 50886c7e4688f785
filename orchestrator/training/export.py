"""A checkpoint as a folder that other programs open: a `transformers` model, and what has no place in one.

    config.json, model.safetensors    from_pretrained opens it
    head.safetensors                  classifier weights, by the objective's names; only where there are some

Owns neither tokenizer nor vocabulary: whoever calls puts them beside.
"""

from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from orchestrator.objectives.objective import Objective
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint import load_weights
from orchestrator.training.checkpoint_folders import StoredCheckpoint

HEAD_FILE = "head.safetensors"


def export_checkpoint(
    store: Store, stored: StoredCheckpoint, objective: Objective, destination: Path, weights: Literal["raw", "ema"]
) -> None:
    """Writes the fp32 weights of a checkpoint, below a run's ``store``, into the folder ``destination``.

    ``objective``: built as for the run, with any weights.

    Raises:
        CheckpointError: a damaged file, or an average asked for that is not there.
    """
    export = objective.export(load_weights(store, stored, average=weights == "ema"))
    export.model.save_pretrained(destination)
    if export.head:
        save_file(export.head, destination / HEAD_FILE)
