"""What any job needs of the place where its driver runs, looked at one by one: part of the command ``doctor``."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

from orchestrator.errors import OrchestratorError, StorageAccessError, WorkError
from orchestrator.runs.check import Finding, check_takes_files
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.resolve import resolve_tracking_uri
from orchestrator.storage.store import check_store, open_store
from orchestrator.wordnet.table import load_noun_table

_LEAST_DISK_BYTES = 10 * 2**30


def check_place(cluster: ClusterSpec) -> Iterator[Finding]:
    """Storage, tracking, the noun table and the disk, as this process reaches them."""
    storage = cluster.storage
    looks: list[tuple[str, Callable[[], str]]] = [
        ("data", partial(_look_at_data, cluster)),
        ("runs", partial(_look_at_runs, cluster)),
        ("MLflow", partial(_look_at_tracking, cluster)),
        ("noun table", _look_at_nouns),
        ("disk of temporary files", partial(_look_at_disk, tempfile.gettempdir())),
    ]
    if storage.cache is not None:
        looks.append(("disk of the cache", partial(_look_at_disk, storage.cache.folder)))
    for subject, look in looks:
        try:
            yield Finding(subject, True, look())
        except OrchestratorError as error:
            yield Finding(subject, False, str(error))


def _look_at_data(cluster: ClusterSpec) -> str:
    check_store(open_store(cluster.storage.data, cluster.storage.s3), write=False)
    return f"{cluster.storage.data} opens"


def _look_at_runs(cluster: ClusterSpec) -> str:
    store = check_takes_files(cluster.storage.runs, cluster)
    if store.checks_conditions():
        return f"{store.uri} takes files, and refuses to overwrite where it is asked to"
    return f"{store.uri} takes files; it ignores conditions of writes, so a start waits a moment to be alone"


def _look_at_tracking(cluster: ClusterSpec) -> str:
    from orchestrator.tracking.mlflow.runs import check_tracking  # takes seconds to import

    uri = resolve_tracking_uri(cluster)
    if not check_tracking(uri):
        raise WorkError(f"no MLflow answers at {uri}; start it, or correct tracking.uri in the cluster file")
    return f"{uri} answers"


def _look_at_nouns() -> str:
    load_noun_table()
    return "WordNet's nouns are in the package"


def _look_at_disk(folder: str) -> str:
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageAccessError(f"{folder} does not open ({error.strerror}); make it, or set TMPDIR") from error
    if free_bytes < _LEAST_DISK_BYTES:
        raise StorageAccessError(
            f"{folder} has {free_bytes / 2**30:,.1f} GiB free, and checkpoints on their way and objects that Ray "
            f"spills want {_LEAST_DISK_BYTES / 2**30:,.0f}; free some, or set TMPDIR to a larger disk"
        )
    return f"{folder} has {free_bytes / 2**30:,.0f} GiB free"
