"""Promote a run: one of its checkpoints becomes a model version with an alias, and is kept for as long."""

import logging
import tempfile
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.runs.export import export_run
from orchestrator.runs.folder import open_run
from orchestrator.runs.target import run_target
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.promotion import Promoted, register_export
from orchestrator.tracking.mlflow.registry import check_names
from orchestrator.training.checkpoint_folders import (
    CheckpointChoice,
    find_checkpoint_of,
    keep_promoted,
    release_promoted,
)
from orchestrator.training.export import format_of
from orchestrator.training.reports import Weights

logger = logging.getLogger(__name__)


def promote_run(
    run_uri: str,
    cluster: ClusterSpec,
    alias: str,
    *,
    model: str | None = None,
    weights: Weights = "raw",
    checkpoint: CheckpointChoice = "last",
) -> Promoted:
    """Export a checkpoint and register it under the alias; from then on no retention removes it.

    Args:
        model: name of the registered model; none: the run's MLflow experiment.

    Raises:
        RunNotFoundError: no such run, or no such complete checkpoint in it.
        PlanError: a name or alias that MLflow does not take.
        TrackingError: MLflow does not answer, or does not know the run.
    """
    store, plan, key = open_run(run_uri, cluster.storage.s3)
    stored = find_checkpoint_of(store, checkpoint)
    name = model or plan.tracking.experiment
    check_names(name, alias)
    # Before all else, so that a run which still trains does not remove what is being promoted.
    replaced = keep_promoted(store, name, alias, stored.record.step)
    try:
        with tempfile.TemporaryDirectory(prefix="promote-") as folder:
            export = Path(folder) / "export"
            record, format = stored.record, format_of(plan.model.variant)
            export_run(run_uri, str(export), cluster, weights, format, record.step)
            made = register_export(run_target(plan, key), export, name, alias, store.uri, record.uri, record.step)
    except OrchestratorError:
        release_promoted(store, name, alias, back_to=replaced)
        raise
    if format == "corenet":
        logger.warning(
            "%s holds corenet's layout (variant '%s'), which neither transformers nor mlflow.pyfunc opens: take its "
            "files with mlflow.artifacts.download_artifacts, for corenet or for orchestrator import",
            made.uri,
            plan.model.variant,
        )
    if made.run_before is not None:
        release_promoted(open_store(made.run_before, cluster.storage.s3), name, alias)
    return made
