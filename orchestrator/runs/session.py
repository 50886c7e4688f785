"""Ray for the length of a job: started here and stopped afterwards, or joined where it runs already."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from orchestrator.errors import Interrupted, PlanError, StorageAccessError
from orchestrator.fork_server import CAN_FORK, CLIENT
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import MachineFacts

logger = logging.getLogger(__name__)

_RAY_ROOM_BYTES = 32 * 2**20
_TRAIN_PATIENCE_ENV = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


@contextmanager
def ray_session(cluster: ClusterSpec, machine: MachineFacts) -> Iterator[None]:
    """Ray is initialised within; one that this process has already is used and left running.

    Ray Train takes the cluster's patience from the environment alone.

    Raises:
        PlanError: no cluster answers at the address of the cluster file.
    """
    os.environ[_TRAIN_PATIENCE_ENV] = str(cluster.ray.patience_s)
    if ray.is_initialized():
        yield
        return
    _start(cluster, machine)
    try:
        yield
    finally:
        ray.shutdown()


def start_local_ray(num_cpus: int, object_store_bytes: int, forked: bool) -> None:
    """A Ray of this process alone; ``forked``: its workers start by a fork (not for CUDA).

    Raises:
        StorageAccessError: no room for its sockets and logs, without which it hangs and ends this process.
    """
    _check_room(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    with forked_workers() if forked else nullcontext():
        _init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",  # nothing outside this machine has any business here
        )


@contextmanager
def forked_workers() -> Iterator[None]:
    """Raylets that are started within start their workers by a fork.

    Ray offers no setting for the program; held by a test of the pinned release.
    """
    usual = ray_constants.SETUP_WORKER_FILENAME
    ray_constants.SETUP_WORKER_FILENAME = str(CLIENT)
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = usual


def _start(cluster: ClusterSpec, machine: MachineFacts) -> None:
    if cluster.ray.address is None:
        forked = CAN_FORK and cluster.workers.accelerator == "cpu"
        start_local_ray(machine.num_cpus, cluster.ray.object_store_bytes, forked)
        return
    try:
        _init(address=cluster.ray.address)
    except (ConnectionError, ValueError) as error:
        raise PlanError(
            f"ray.address: no Ray answers at {cluster.ray.address} ({error}); start one there, "
            f"or leave ray.address out of the cluster file to start one here"
        ) from error


def _check_room(folder: str) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _RAY_ROOM_BYTES:
        raise StorageAccessError(
            f"the disk of {folder} on {socket.gethostname()} has {free_bytes / 2**20:.0f} MiB left, and Ray keeps its "
            f"sockets and logs there; make room for {_RAY_ROOM_BYTES // 2**20} MiB, or name another with TMPDIR"
        )


def _init(**options: Any) -> None:
    """``ray.init``, whose messages from the cluster go to the log: it prints them to stdout, where results are.

    Ray offers no setting for that; held by a test of the pinned release.
    """
    ray_worker.print_to_stdstream = _log_message
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except SystemExit as error:  # the first that Ray does is to end the process at this signal
        raise Interrupted("SIGTERM while Ray started") from error


def _log_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    logger.debug("%s: %s", data["pid"], "\n".join(data["lines"]))
