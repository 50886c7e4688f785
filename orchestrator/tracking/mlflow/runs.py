"""What MLflow knows about runs: the list for ``orchestrator runs``, and the end of runs that died unseen."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingAccessError, TrackingError
from orchestrator.redaction import redact
from orchestrator.tracking.metrics import SAMPLES_PER_S, STEPS
from orchestrator.tracking.mlflow.client import check_tracking_uri, connect, sqlite_path
from orchestrator.tracking.tracker import (
    TAG_CHECKPOINT,
    TAG_HEARTBEAT,
    TAG_OBJECTIVE,
    TAG_REASON,
    TAG_RUN_KEY,
    RunRow,
    RunStatus,
)

logger = logging.getLogger(__name__)

_PAGE = 500


def list_runs(tracking_uri: str, experiment: str) -> list[RunRow]:
    """All runs of an experiment, newest first; none where the experiment does not exist.

    Raises TrackingError when MLflow does not answer, JobFileError for credentials in the URI.
    """
    if not _is_there(tracking_uri):
        return []
    with _explained(tracking_uri):
        return [_row(run) for run in _pages(connect(tracking_uri), experiment)]


def list_by_key(tracking_uri: str, experiment: str) -> dict[str, RunRow]:
    """The same by the key that each run's folder holds: names are not unique where several storages share a server."""
    if not _is_there(tracking_uri):
        return {}
    with _explained(tracking_uri):
        runs = _pages(connect(tracking_uri), experiment, f"tags.`{TAG_RUN_KEY}` != ''")
        return {run.data.tags[TAG_RUN_KEY]: _row(run) for run in runs}


def close_dead_runs(tracking_uri: str, experiment: str, stale_after_s: float = 120.0) -> list[str]:
    """Set RUNNING runs whose heartbeat is older than ``stale_after_s`` to KILLED; returns their names.

    Runs without a heartbeat are not ours and stay as they are. Raises as ``list_runs``.
    """
    if not _is_there(tracking_uri):
        return []
    with _explained(tracking_uri):
        client = connect(tracking_uri)
        running = list(_pages(client, experiment, "attributes.status = 'RUNNING'"))
        return [str(run.info.run_name) for run in running if _close_if_dead(client, run, stale_after_s)]


def check_tracking(tracking_uri: str, experiment: str = "") -> bool:
    """Whether MLflow answers; one that is away costs a run nothing, one that takes nothing of it would record nothing.

    Args:
        experiment: that a run is to be recorded in; empty: none.

    Raises:
        JobFileError: credentials in the URI.
        TrackingAccessError: the server refuses the credentials of this environment, or the experiment was deleted.
    """
    if not _is_there(tracking_uri):
        return True  # a file that a run makes
    try:
        client = connect(tracking_uri)
        client.search_experiments(max_results=1)
        found = client.get_experiment_by_name(experiment) if experiment else None
    except MlflowException as error:
        if "error code 401" in str(error) or "error code 403" in str(error):  # it keeps the status in its text alone
            raise TrackingAccessError(
                f"tracking.uri: MLflow at {tracking_uri} refuses the credentials of this environment; set "
                f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
            ) from error
        return False
    if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        raise TrackingAccessError(
            f"experiment: MLflow at {tracking_uri} has '{experiment}' among its deleted ones; "
            f"restore it (mlflow experiments restore --experiment-id {found.experiment_id}), or name another"
        )
    return True


def _close_if_dead(client: MlflowClient, run: Run, stale_after_s: float) -> bool:
    beat_s = float(run.data.tags.get(TAG_HEARTBEAT, "inf"))
    if time.time() - beat_s < stale_after_s:
        return False
    since = datetime.fromtimestamp(beat_s, UTC).isoformat()
    client.set_tag(run.info.run_id, TAG_REASON, f"heartbeat stale since {since}")
    client.set_terminated(run.info.run_id, status=RunStatus.KILLED.value, end_time=int(beat_s * 1000))
    logger.warning("run %s died: no heartbeat since %s; set to KILLED", run.info.run_name, since)
    return True


def _is_there(tracking_uri: str) -> bool:
    """False for a SQLite file that no run has made yet: asking must not create it."""
    check_tracking_uri(tracking_uri)
    database = sqlite_path(tracking_uri)
    return database is None or database.exists()


@contextmanager
def _explained(tracking_uri: str) -> Iterator[None]:
    """MLflow's errors, with what to do about them."""
    try:
        yield
    except MlflowException as error:
        raise TrackingError(
            f"MLflow at {tracking_uri} did not answer: {redact(str(error))}; start the server, or set tracking.uri in "
            f"the cluster file"
        ) from error


def _pages(client: MlflowClient, experiment: str, condition: str = "") -> Iterator[Run]:
    found = client.get_experiment_by_name(experiment)
    token: str | None = ""
    while found is not None and token is not None:
        page = client.search_runs([found.experiment_id], condition, max_results=_PAGE, page_token=token or None)
        yield from list(page)
        token = page.token or None


def _row(run: Run) -> RunRow:
    metrics, tags = run.data.metrics, run.data.tags
    return RunRow(
        name=run.info.run_name,
        run_id=run.info.run_id,
        status=run.info.status,
        reason=tags.get(TAG_REASON) or None,
        objective=tags.get(TAG_OBJECTIVE),
        steps=int(metrics[STEPS]) if STEPS in metrics else None,
        samples_per_s=metrics.get(SAMPLES_PER_S),
        evaluation={name: value for name, value in metrics.items() if name.startswith(("eval/", "eval_ema/"))},
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        checkpoint_uri=tags.get(TAG_CHECKPOINT),
    )
