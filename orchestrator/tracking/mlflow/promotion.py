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
from orchestrator.tracking.tracker import TAG_CHECKPOINT, TAG_OBJECTIVE, TAG_RUN_KEY, RunTarget

_TAG_RUN_URI = "orchestrator.run_uri"
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
        before = _run_with_alias(client, model, alias)
        tags = {TAG_CHECKPOINT: checkpoint_uri, _TAG_RUN_URI: run_uri}
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
        _ensure_registered(client, model)
        # By its place: a models:/ URI would be looked up at this process's own tracking URI.
        place = logged.artifact_location
        made = client.create_model_version(model, place, run_id, tags=tags, model_id=logged.model_id)
        client.set_registered_model_alias(model, alias, made.version)
    return Promoted(model, str(made.version), alias, checkpoint_uri, before if before != run_uri else None)


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


def _run_with_alias(client: MlflowClient, model: str, alias: str) -> str | None:
    try:
        tags: dict[str, str] = client.get_model_version_by_alias(model, alias).tags
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no such alias
            return None
        raise
    return tags.get(_TAG_RUN_URI)


def _ensure_registered(client: MlflowClient, model: str) -> None:
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _explained(tracking_uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"MLflow at {redact(tracking_uri)} did not take the model: {redact(str(error))}") from error
