"""Which failures are tried again, and with which error a run ends."""

import pickle

import pytest
import torch
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    WorkerCrashedError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)

from orchestrator.errors import (
    DatasetError,
    DivergedError,
    MemoryExhaustedError,
    OrchestratorError,
    ShardReadError,
    WorkerLostError,
    WorkError,
)
from orchestrator.runs.failures import judge_failure


def in_workers(*errors: Exception) -> WorkerGroupError:
    """As Ray Train raises it, after a trip between processes."""
    wrapped = {rank: UserExceptionWithTraceback(error, "traceback") for rank, error in enumerate(errors)}
    failure: WorkerGroupError = pickle.loads(pickle.dumps(WorkerGroupError("failed", wrapped)))
    return failure


@pytest.mark.parametrize("error", [DatasetError("no samples"), DivergedError("loss is nan")])
def test_errors_that_would_come_again_end_the_run_with_their_own_message(error: OrchestratorError) -> None:
    verdict = judge_failure(in_workers(error, RuntimeError("Connection closed by peer [127.0.0.1]:1")))
    assert not verdict.retry
    assert type(verdict.error) is type(error)
    assert str(verdict.error) == str(error)


def test_a_store_that_failed_is_tried_again() -> None:
    verdict = judge_failure(in_workers(ShardReadError("00001.tar: timed out")))
    assert verdict.retry
    assert isinstance(verdict.error, ShardReadError)


@pytest.mark.parametrize(
    "error",
    [
        RayActorError(),
        RuntimeError("[enforce fail] Connection reset by peer"),
        WorkerGroupStartupFailedError("gone"),
        LocalRayletDiedError(),
        NodeDiedError("node 7"),
        ObjectLostError("0a", "ref", "site"),
        OwnerDiedError("0a", "ref", "site"),
        WorkerCrashedError(),
    ],
)
def test_lost_workers_are_tried_again(error: Exception) -> None:
    verdict = judge_failure(WorkerGroupError("failed", {0: error}))
    assert verdict.retry
    assert isinstance(verdict.error, WorkerLostError)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        OutOfMemoryError("host"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ],
)
def test_memory_is_not_tried_again_and_names_the_settings(error: Exception) -> None:
    verdict = judge_failure(WorkerGroupError("failed", {0: RayActorError(), 1: error}))
    assert not verdict.retry
    assert isinstance(verdict.error, MemoryExhaustedError)
    assert "batch.global_size" in str(verdict.error)


def test_an_unknown_error_ends_the_run_and_keeps_its_type_and_text() -> None:
    verdict = judge_failure(in_workers(KeyError("pixel_values")))
    assert not verdict.retry
    assert type(verdict.error) is WorkError
    assert "KeyError" in str(verdict.error)
    assert "pixel_values" in str(verdict.error)


def test_workers_without_room_are_waited_for_again_and_nobody_calls_them_lost() -> None:
    for failure in (ControllerError(WorkerGroupStartupTimeoutError(2)), WorkerGroupStartupTimeoutError(2)):
        verdict = judge_failure(failure)
        assert verdict.retry
        assert not isinstance(verdict.error, WorkerLostError)
        assert "no room for all workers within ray.patience_s" in str(verdict.error)
        assert "2 workers" in str(verdict.error)
        assert "lost" not in str(verdict.error)


def test_one_ranks_own_fault_is_named_and_not_the_connection_that_its_peers_lost() -> None:
    peers = (RuntimeError("Connection closed by peer [127.0.0.1]:1"), RuntimeError("Connection reset by peer"))
    verdict = judge_failure(in_workers(peers[0], ValueError("a shape of 3"), peers[1]))
    assert not verdict.retry
    assert isinstance(verdict.error, WorkError)
    assert "ValueError in a worker: a shape of 3" in str(verdict.error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: device-side assert triggered"), OSError(24, "Too many open files")],
)
def test_what_a_device_or_the_system_failed_with_is_named_when_it_is_tried_again(error: Exception) -> None:
    lost = RuntimeError("Connection closed by peer [127.0.0.1]:1")
    verdict = judge_failure(in_workers(lost, error, lost))
    assert verdict.retry
    assert f"{type(error).__name__} in a worker: {error}; its peers lost the connection to it" in str(verdict.error)
    died = judge_failure(in_workers(RayActorError(), error, lost))
    assert "a worker or its node was lost" in str(died.error)
