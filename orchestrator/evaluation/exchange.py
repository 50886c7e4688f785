"""Spreads independent work over ranks and hands every rank all results, without waiting in a collective.

A collective gives up after the group's time-out, so a rank that is done must not wait in one for a rank that still
works. Results go through the group's key-value store instead: each rank writes its outcome in pieces (a value of
8 MiB or more breaks the store's connection), then their number, and polls for the others' numbers. A collective is
entered only when all results are there. Trade-off: polling costs up to ``POLL_S`` per exchange.
"""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from orchestrator.errors import EvaluationError, OrchestratorError, ShardReadError

POLL_S = 0.05
MAX_PIECE_BYTES = 4 << 20

Record = dict[str, Any]
T = TypeVar("T")


def share_work(
    work: Sequence[Callable[[], Record]], rank: int, world_size: int, timeout_s: float = 4 * 3600
) -> list[Record]:
    """Does item i on rank i % world_size and returns the records of all items, in order, on all ranks.

    All ranks call it with the same number of items; records hold what JSON can hold. World size 1 needs no group.

    Raises:
        EvaluationError: on the other ranks, when an item failed on one (which raises its own error), or when a
            rank has not finished ``timeout_s`` after this one did.
        ShardReadError: the same where it failed at what another attempt may not meet.
    """
    if world_size == 1:
        return [item() for item in work]
    store = dist.distributed_c10d._get_default_store()  # the group's own; torch has no public name for it
    prefix = _agree_on_prefix()
    try:
        own = [item() for item in work[rank::world_size]]
    except Exception as error:
        failed = {"failed": f"{type(error).__name__}: {error}", "may_pass": isinstance(error, ShardReadError)}
        _write(store, f"{prefix}/{rank}", failed)
        raise
    _write(store, f"{prefix}/{rank}", {"records": own})
    deadline_s = time.monotonic() + timeout_s
    by_rank = [_wait_for(store, f"{prefix}/{other}", other, deadline_s) for other in range(world_size)]
    dist.barrier()  # all have all results by now, or within one poll: the keys can go, and so can their host
    if rank == 0:  # which hosts the store
        for other in range(world_size):
            _delete(store, f"{prefix}/{other}")
    return [by_rank[i % world_size][i // world_size] for i in range(len(work))]


def share_from_rank_zero(make: Callable[[], T], rank: int, world_size: int) -> T:
    """What ``make`` returns on rank 0, on all ranks, which call it together; it must pickle.

    Raises on all ranks the named error that ``make`` raises: a fault that another attempt may not meet stays one.
    """
    outcome: list[Any] = [None, None]  # the value or the error

    def keep() -> Record:
        try:
            outcome[0] = make()
        except OrchestratorError as error:
            outcome[1] = error
        return {}

    share_work([keep], rank, world_size)
    if world_size > 1:
        dist.broadcast_object_list(outcome, src=0)
    value: T
    value, error = outcome
    if error is not None:
        raise error
    return value


def _agree_on_prefix() -> str:
    """A key prefix that no earlier exchange used, the same on all ranks."""
    names = [uuid.uuid4().hex]
    dist.broadcast_object_list(names, src=0)
    return f"evaluation/{names[0]}"


def _wait_for(store: dist.distributed_c10d.Store, key: str, rank: int, deadline_s: float) -> list[Record]:
    while not store.check([key]):
        if time.monotonic() > deadline_s:
            raise EvaluationError(f"rank {rank} did not finish its part of an evaluation in time; see that rank's log")
        time.sleep(POLL_S)
    outcome = json.loads(b"".join(store.get(piece) for piece in _pieces(key, int(store.get(key)))))
    if "failed" in outcome:
        kind = ShardReadError if outcome["may_pass"] else EvaluationError
        raise kind(f"evaluation failed on rank {rank}: {outcome['failed']}")
    records: list[Record] = outcome["records"]
    return records


def _write(store: dist.distributed_c10d.Store, key: str, outcome: Record) -> None:
    """The pieces, then their number: whoever sees ``key`` finds all of them."""
    text = json.dumps(outcome)  # ASCII, so a character is a byte
    starts = range(0, len(text), MAX_PIECE_BYTES)
    for piece, start in zip(_pieces(key, len(starts)), starts, strict=True):
        store.set(piece, text[start : start + MAX_PIECE_BYTES])
    store.set(key, str(len(starts)))


def _delete(store: dist.distributed_c10d.Store, key: str) -> None:
    for piece in _pieces(key, int(store.get(key))):
        store.delete_key(piece)
    store.delete_key(key)


def _pieces(key: str, number: int) -> list[str]:
    return [f"{key}/{piece}" for piece in range(number)]
