"""Export a run's checkpoint with all that it takes to use it: model, head, tokenizer, vocabulary, plan."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.data.concepts import open_finder
from orchestrator.data.tokens import save_tokenizer
from orchestrator.env import apply_quiet_env
from orchestrator.errors import StorageAccessError
from orchestrator.models.source import VOCABULARY_FILE
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.plan import PLAN_FILE
from orchestrator.storage.destination import explaining_writes, local_destination
from orchestrator.training.checkpoint_folders import CheckpointChoice, find_checkpoint_of
from orchestrator.training.export import ExportFormat, export_checkpoint
from orchestrator.training.parts import block_format, build_plan_objective
from orchestrator.training.reports import Weights


def export_run(
    run_uri: str,
    destination: str,
    cluster: ClusterSpec,
    weights: Weights = "raw",
    format: ExportFormat = "huggingface",
    checkpoint: CheckpointChoice = "last",
) -> None:
    """Write a model that other programs open into a new or empty folder; it appears whole or not at all.

        (training/export.py)       the model, and how pixels reach it
        tokenizer.json, ...        what made the captions into tokens, as `transformers` opens it
        concepts.parquet           which concept each row of the classifier is
        plan.json                  what it was trained with

    Raises:
        RunNotFoundError: no such run, or no such complete checkpoint in it.
        ModelSourceError: the format has no place for such a model.
        StorageAccessError: the destination is a URI, a file or not empty, or cannot be written.
        CheckpointError: a damaged file, or no average of the weights where one is asked for.
    """
    apply_quiet_env()
    store, plan, _ = open_run(run_uri, cluster.storage.s3)
    with _appearing(local_destination(destination)) as folder:
        read = block_format(plan)
        objective = build_plan_objective(plan, read.vocabulary)
        stored = find_checkpoint_of(store, checkpoint)
        export_checkpoint(store, stored, objective, plan.model, folder, weights, format)
        (folder / PLAN_FILE).write_bytes(store.read_bytes(PLAN_FILE))
        if read.tokenizer is not None:
            save_tokenizer(read.tokenizer, plan.model.context, folder)
        if read.labeller is not None:
            table = open_finder(read.labeller.finder, plan.s3).table
            (folder / VOCABULARY_FILE).write_bytes(read.labeller.vocabulary.to_bytes(table))


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder that becomes ``target`` at the end. Raises StorageAccessError as ``export_run``."""
    with explaining_writes(target):
        if target.exists() and any(target.iterdir()):
            raise StorageAccessError(f"{target} is not empty; name a new folder, or empty this one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as name:
            folder = Path(name) / "export"
            folder.mkdir()
            yield folder
            if target.exists():
                target.rmdir()
            shutil.move(folder, target)
