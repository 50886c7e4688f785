"""Delivers what runs recorded while MLflow was away: the journals of a cluster's runs on this machine."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.env import state_folder, temporary_state_folder
from orchestrator.errors import TrackingError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.load import local_path
from orchestrator.tracking.mlflow.open import sync_journals


def sync_runs(cluster: ClusterSpec) -> Iterator[str]:
    """Deliver the journals of all runs; one line per journal that had something left or could not be delivered."""
    folders, failed = _tracking_folders(cluster.storage.runs), dict[Path, TrackingError]()
    for folder in folders:
        try:
            yield from _deliver(folder)
        except TrackingError as error:  # a run that is live, or a server that is away: the others may still go
            failed[folder] = error
    for folder, first in failed.items():
        try:
            if len(failed) == len(folders):
                raise first
            yield from _deliver(folder)  # a trial, where the comparison above it has its record only now
        except TrackingError as last:
            yield f"{folder}: {last}"


def _deliver(folder: Path) -> list[str]:
    left = [unshipped for unshipped in sync_journals(folder) if unshipped.entries or unshipped.refused]
    return [f"{folder}: {unshipped}" for unshipped in left]


def _tracking_folders(runs_uri: str) -> list[Path]:
    """Where ``runs/folder.py`` keeps journals on this machine."""
    if runs_uri.startswith("file://"):
        return sorted(local_path(runs_uri).glob("*/tracking"))
    return sorted((state_folder() or temporary_state_folder()).glob("tracking/*"))
