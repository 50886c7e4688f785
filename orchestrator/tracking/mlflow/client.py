"""Connects to MLflow: a tracking server by URL or a local SQLite file. Quiet, and quick to say that nobody answers.

Credentials come from the environment only (``MLFLOW_TRACKING_USERNAME``, ``_PASSWORD``, ``_TOKEN``): MLflow's client
reads them there.
"""

import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from orchestrator.errors import JobFileError, TrackingError
from orchestrator.redaction import redact

_SQLITE = "sqlite:///"

# MLflow reads these at every call. The journal retries, so the client must not sit in retries of its own.
_CLIENT_ENV = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def check_tracking_uri(tracking_uri: str) -> None:
    """Raises JobFileError for a URI that carries credentials, and for a relative SQLite file."""
    parts = urlsplit(tracking_uri)
    if parts.password is not None or (parts.scheme.startswith("http") and parts.username):
        raise JobFileError(
            f"tracking.uri {redact(tracking_uri)} carries credentials, which would reach logs and records; remove "
            f"them from the cluster file and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
            f"MLFLOW_TRACKING_TOKEN) in the environment"
        )
    database = sqlite_path(tracking_uri)
    if database is not None and not database.is_absolute():
        raise JobFileError(
            f"tracking.uri {tracking_uri} is relative, but driver and workers run in different folders; "
            f"write sqlite:////ABSOLUTE/PATH/{database.name} in the cluster file"
        )


def sqlite_path(tracking_uri: str) -> Path | None:
    """The database file of a SQLite URI, None for every other URI."""
    return Path(tracking_uri.removeprefix(_SQLITE)) if tracking_uri.startswith(_SQLITE) else None


def connect(tracking_uri: str) -> MlflowClient:
    """A client; a SQLite database is created when it is not there (its first use takes seconds)."""
    for name, value in _CLIENT_ENV.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    database = sqlite_path(tracking_uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        database.touch(mode=0o600)  # parameters and paths of runs are nobody else's business
    return MlflowClient(tracking_uri=tracking_uri)


def ensure_experiment(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """Id of the experiment, created when it is not there. With SQLite its artifacts lie beside the database.

    Raises TrackingError for one that was deleted, which MLflow keeps and takes nothing for.
    """
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise TrackingError(
            f"experiment '{name}' was deleted in MLflow; restore it there (mlflow experiments restore -x "
            f"{experiment.experiment_id}), or name another one as 'experiment' in the job file"
        )
    if experiment is not None:
        return str(experiment.experiment_id)
    database = sqlite_path(tracking_uri)
    artifacts = None if database is None else (database.parent / "mlartifacts" / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run created it just now
            raise
        return str(client.get_experiment_by_name(name).experiment_id)
