"""Registers an exported checkpoint as a model version with an alias: the one case in which weights become artifacts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingError
from orchestrator.redaction import redact
from orchestrator.tracking.mlflow.client import check_tracking_uri, connect
from orchestrator.tracking.mlflow.registry import add_version, find_alias
from orchestrator.tracking.tracker import TAG_CHECKPOINT, TAG_OBJECTIVE, TAG_RUN_KEY, TAG_RUN_URI, RunTarget

_SERVED_BY = ("torch", "transformers", "safetensors", "pillow", "pandas")


@dataclass(frozen=True)
class Promoted:
    """A model version that has an alias now."""

    model: str
    version: str
    alias: str
    checkpoint_uri: str
    run_before: str | None
    """URI of the run whose checkpoint had the alias, if another had it."""

    @property
    def uri(self) -> str:
        """What ``mlflow.pyfunc.load_model`` takes."""
        return f"models:/{self.model}@{self.alias}"


def register_export(
    target: RunTarget, folder: Path, model: str, alias: str, run_uri: str, checkpoint_uri: str, step: int
) -> Promoted:
    """Keep an exported folder as a new version of the registered ``model``, and give that version the alias.

    The version appears with its alias at the end or, when something fails before, without one.

    Raises:
        TrackingError: MLflow does not answer or take it, or has no record of the run.
        JobFileError: credentials in the URI.
    """
    check_tracking_uri(target.tracking_uri)
    with _explained(target.tracking_uri):
        client = connect(target.tracking_uri)
        run_id, experiment_id = _find_run(client, target)
        found = find_alias(client, model, alias)
        before = None if found is None else found.tags.get(TAG_RUN_URI)
        tags = {TAG_CHECKPOINT: checkpoint_uri, TAG_RUN_URI: run_uri}
        logged = client.create_logged_model(
            experiment_id,
            name=f"promoted-{step}",
            source_run_id=run_id,
            tags=tags,
            params={"step": str(step)},
            model_type=target.tags.get(TAG_OBJECTIVE),
        )
        with tempfile.TemporaryDirectory(prefix="promote-") as scratch:
            local = Path(scratch) / "model"
            _save_served(folder, local)
            client.log_model_artifacts(logged.model_id, str(local))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        version_made = add_version(client, model, alias, logged, run_id, tags)
    return Promoted(model, version_made, alias, checkpoint_uri, before if before != run_uri else None)


def _save_served(export: Path, destination: Path) -> None:
    """MLflow's own form of a Python model, from code, with its requirements as installed here."""
    mlflow.pyfunc.save_model(
        str(destination),
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"export": str(export)},
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", *_SERVED_BY)],
    )


def _find_run(client: MlflowClient, target: RunTarget) -> tuple[str, str]:
    experiment = client.get_experiment_by_name(target.experiment)
    condition = f"tags.`{TAG_RUN_KEY}` = '{target.run_key}'"
    found = [] if experiment is None else client.search_runs([experiment.experiment_id], condition, max_results=1)
    if experiment is None or not found:
        raise TrackingError(
            f"run {target.run_name} has no record in MLflow at {redact(target.tracking_uri)}; deliver it with: "
            f"orchestrator runs --sync"
        )
    return str(found[0].info.run_id), str(experiment.experiment_id)


@contextmanager
def _explained(tracking_uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"MLflow at {redact(tracking_uri)} did not take the model: {redact(str(error))}") from error
