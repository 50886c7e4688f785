"""Runs that exist, side by side: what MLflow knows of each. A comparison stands for its replicates."""

from collections.abc import Sequence

from orchestrator.errors import RunNotFoundError
from orchestrator.runs.compare_folder import load_comparison
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.runs import list_by_key
from orchestrator.tracking.tracker import RunRow


def read_runs(run_uris: Sequence[str], cluster: ClusterSpec) -> list[RunRow]:
    """The records of runs by their folders, in that order.

    Raises:
        RunNotFoundError: no such run, or MLflow has no record of it.
        TrackingError: MLflow does not answer.
    """
    uris = dict.fromkeys(uri for given in run_uris for uri in _expand(given, cluster))
    runs = [(plan, key) for _, plan, key in (open_run(uri, cluster.storage.s3) for uri in uris)]
    places = dict.fromkeys((plan.tracking.uri, plan.tracking.experiment) for plan, _ in runs)
    records = {place: list_by_key(*place) for place in places}
    return [_find(plan, records[plan.tracking.uri, plan.tracking.experiment].get(key)) for plan, key in runs]


def is_comparison(run_uri: str, cluster: ClusterSpec) -> bool:
    """Whether a folder is a comparison's."""
    return load_comparison(open_store(run_uri, cluster.storage.s3)) is not None


def _expand(run_uri: str, cluster: ClusterSpec) -> list[str]:
    found = load_comparison(open_store(run_uri, cluster.storage.s3))
    if found is None:
        return [run_uri]
    return [trial.run_uri for trial in found.trials if (trial.phase, trial.status) == ("verdict", "finished")]


def _find(plan: Plan, row: RunRow | None) -> RunRow:
    if row is None:
        raise RunNotFoundError(
            f"{plan.tracking.uri} has no record of run '{plan.name}' in experiment {plan.tracking.experiment}; deliver "
            f"what it has not got with: orchestrator runs --sync"
        )
    return row
