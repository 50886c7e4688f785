"""Files that belong to a run that has ended or is another process's: put there at once, past the journal."""

from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingError
from orchestrator.redaction import redact
from orchestrator.tracking.mlflow.client import check_tracking_uri, connect


def log_page(tracking_uri: str, run_id: str, name: str, text: str) -> None:
    """Keep a text as the artifact ``name`` of a run, in place of an older one.

    Raises:
        TrackingError: MLflow does not answer, or has no such run.
        JobFileError: credentials in the URI.
    """
    check_tracking_uri(tracking_uri)
    try:
        connect(tracking_uri).log_text(run_id, text, name)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {tracking_uri} did not take {name}: {redact(str(error))}") from error
