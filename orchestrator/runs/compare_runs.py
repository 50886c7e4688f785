"""Runs that exist, side by side: what MLflow knows of each. A comparison stands for its replicates."""

from collections.abc import Sequence

from orchestrator.errors import RunNotFoundError
from orchestrator.runs.compare_folder import load_comparison
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.runs import list_runs
from orchestrator.tracking.tracker import RunRow


def read_runs(run_uris: Sequence[str], cluster: ClusterSpec) -> list[RunRow]:
    """The records of runs by their folders, in that order.

    Raises:
        RunNotFoundError: no such run, or MLflow has no record of it.
        TrackingError: MLflow does not answer.
    """
    uris = dict.fromkeys(uri for given in run_uris for uri in _expand(given, cluster))
    return [_read_run(uri, cluster) for uri in uris]


def _expand(run_uri: str, cluster: ClusterSpec) -> list[str]:
    found = load_comparison(open_store(run_uri, cluster.storage.s3))
    if found is None:
        return [run_uri]
    return [trial.run_uri for trial in found.trials if (trial.phase, trial.status) == ("verdict", "finished")]


def _read_run(run_uri: str, cluster: ClusterSpec) -> RunRow:
    _, plan, _ = open_run(run_uri, cluster.storage.s3)
    tracking = plan.tracking
    row = next((row for row in list_runs(tracking.uri, tracking.experiment) if row.name == plan.name), None)
    if row is None:
        raise RunNotFoundError(
            f"{tracking.uri} has no record of run '{plan.name}' in experiment {tracking.experiment}; deliver what it "
            f"has not got with: orchestrator runs --sync"
        )
    return row
