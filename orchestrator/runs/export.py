"""Export a run's last checkpoint with all that it takes to use it: model, head, tokenizer, vocabulary, plan."""

import shutil
import tempfile
from pathlib import Path

from orchestrator.data.concepts import open_finder
from orchestrator.env import apply_quiet_env
from orchestrator.errors import StorageAccessError
from orchestrator.runs.evaluate import find_checkpoint_of
from orchestrator.runs.folder import PLAN_FILE, open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.training.export import export_checkpoint
from orchestrator.training.parts import block_format, build_plan_objective
from orchestrator.training.reports import Weights


def export_run(run_uri: str, destination: str, cluster: ClusterSpec, weights: Weights = "raw") -> None:
    """Write safetensors that ``transformers`` opens into a new or empty folder; it appears whole or not at all.

        config.json, model.safetensors    the model
        head.safetensors                  CatLIP's classifier
        tokenizer.json                    what made the captions into tokens
        concepts.parquet                  which concept each row of the classifier is
        plan.json                         what it was trained with

    Raises:
        RunNotFoundError: no such run, or no complete checkpoint in it.
        StorageAccessError: the destination is not empty or cannot be written.
        CheckpointError: a damaged file, or no average of the weights where one is asked for.
    """
    apply_quiet_env()
    store, plan, _ = open_run(run_uri, cluster.storage.s3)
    target = Path(destination).absolute()
    if target.exists() and any(target.iterdir()):
        raise StorageAccessError(f"{target} is not empty; name a new folder, or empty this one")
    format = block_format(plan)
    objective = build_plan_objective(plan, format.vocabulary)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as name:
        folder = Path(name) / "export"
        folder.mkdir()
        export_checkpoint(store, find_checkpoint_of(store), objective, folder, weights)
        (folder / PLAN_FILE).write_bytes(store.read_bytes(PLAN_FILE))
        if format.tokenizer is not None:
            (folder / "tokenizer.json").write_text(format.tokenizer.json)
        if format.labeller is not None:
            table = open_finder(format.labeller.finder, plan.s3).table
            (folder / "concepts.parquet").write_bytes(format.labeller.vocabulary.to_bytes(table))
        if target.exists():
            target.rmdir()
        shutil.move(folder, target)
