"""What a failed attempt means: end the run with a named error, or try again.

Decides only; ``attempts.py`` acts. Errors of input, data, divergence and memory would come again; workers, nodes and
stores recover. Ray's own policy retries them all alike and never refills its budget.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectFetchTimedOutError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError  # not public: ``ray`` is pinned

from orchestrator.errors import (
    MemoryExhaustedError,
    OrchestratorError,
    ShardReadError,
    WorkerLostError,
    WorkError,
)

# What the other ranks see when one dies in a collective (gloo and NCCL).
_LOST = (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectFetchTimedOutError,
    ObjectLostError,  # also where the owner of an object died
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
_PEER_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|peer|socket|timed? ?out|nccl.*(remote|abort)", re.IGNORECASE
)


@dataclass(frozen=True)
class Verdict:
    """What to do about a failure, and the error to end with if nothing more is tried."""

    retry: bool
    error: OrchestratorError


def judge_failure(failure: BaseException) -> Verdict:
    """The verdict on what ``TorchTrainer.fit`` raised."""
    causes = [_root_cause(error) for error in _collect(failure)]
    named = [cause for cause in causes if isinstance(cause, OrchestratorError)]
    for error in named:
        if not isinstance(error, ShardReadError):
            return Verdict(retry=False, error=error)
    if named:
        return Verdict(retry=True, error=named[0])
    for cause in causes:
        if _is_memory(cause):
            return Verdict(retry=False, error=_memory_error(cause))
    for cause in causes:
        if isinstance(cause, WorkerGroupStartupTimeoutError):
            return Verdict(retry=True, error=_no_room(cause))
    lost = [cause for cause in causes if _is_lost(cause)]
    others = [cause for cause in causes if cause not in lost]
    own_faults = [cause for cause in others if not isinstance(cause, RuntimeError | OSError)]
    if lost and not own_faults:  # else one rank's fault would pass for the lost connection that its peers saw
        return Verdict(retry=True, error=WorkerLostError(_name_lost(lost, others)))
    first = own_faults[0] if own_faults else causes[0]
    return Verdict(retry=False, error=WorkError(f"{type(first).__name__} in a worker: {first}"))


def _name_lost(lost: Sequence[BaseException], others: Sequence[BaseException]) -> str:
    """What a device or a system call failed with may be why the peers lost the connection, and pass."""
    if not others or any(isinstance(cause, _LOST) for cause in lost):
        return f"a worker or its node was lost: {_first_line(lost[0])}"
    first = others[0]
    return f"{type(first).__name__} in a worker: {_first_line(first)}; its peers lost the connection to it"


def _collect(failure: BaseException) -> list[BaseException]:
    if isinstance(failure, WorkerGroupError):
        return [error for _, error in sorted(failure.worker_failures.items())] or [failure]
    if isinstance(failure, ControllerError):
        return [failure.controller_failure]
    return [failure]


def _root_cause(error: BaseException) -> BaseException:
    """The exception below Ray's wrappers, which each keep it under another name."""
    for name in ("_base_exc", "health_check_failure", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return _root_cause(inner)
    return error


def _is_lost(cause: BaseException) -> bool:
    if isinstance(cause, _LOST):
        return True
    is_startup = type(cause).__name__.startswith("WorkerGroupStartup")
    return is_startup or (isinstance(cause, RuntimeError | ConnectionError) and bool(_PEER_LOST.search(str(cause))))


def _is_memory(cause: BaseException) -> bool:
    return isinstance(cause, torch.OutOfMemoryError | OutOfMemoryError | MemoryError) or (
        isinstance(cause, RuntimeError) and "can't allocate memory" in str(cause)  # torch's, of a CPU
    )


def _no_room(cause: BaseException) -> WorkError:
    return WorkError(
        f"the cluster had no room for all workers within ray.patience_s: {_first_line(cause)} 'orchestrator doctor' "
        f"says what its nodes lack; start more, or take fewer workers"
    )


def _memory_error(cause: BaseException) -> MemoryExhaustedError:
    return MemoryExhaustedError(
        f"out of memory: {_first_line(cause)}; lower batch.global_size or model.image_size, raise zero_stage, "
        f"or set model.activation_checkpointing: true"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
