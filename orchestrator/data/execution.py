"""One bounded execution of Ray Data: read tasks on one node's behalf, split into an iterator for each of its ranks.

With ``preserve_order`` and blocks of equal size, ``streaming_split(equal=True)`` deals block k to iterator k % n; that
is how Ray 2.60 behaves, not what it promises, so every block carries its stamp and ``stream.py`` compares.
"""

import ctypes
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, DataIterator, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback

from orchestrator.data.blocks import BlockReader, BlockTask
from orchestrator.data.dataset_order import NO_VISITS
from orchestrator.spec.plan import MAX_UNREAD_BLOCKS, StreamPlan

_PREFETCH_BLOCKS = 2
_SCHEDULING_SHARE = 0.04  # of a core
_SCHEDULING_PAUSES_S = (0.01, 0.05)
_END = object()


class PacedScheduling(ExecutionCallback):
    """Keeps Ray's scheduling loop from spinning: while blocks wait for a slow reader it burnt half a core (measured).

    A pause after each round, in proportion to what the round cost.
    """

    def __init__(self) -> None:
        self._resumed_s = time.thread_time()

    def on_execution_step(self, executor: object) -> None:
        """Called once a round, in the thread of the loop."""
        least_s, most_s = _SCHEDULING_PAUSES_S
        round_s = time.thread_time() - self._resumed_s
        time.sleep(min(max(round_s / _SCHEDULING_SHARE, least_s), most_s))
        self._resumed_s = time.thread_time()


def build_execution(
    reader: BlockReader,
    tasks: Sequence[BlockTask],
    plan: StreamPlan,
    num_ranks: int,
    num_nodes: int,
    labels: Mapping[str, str],
) -> list[DataIterator]:
    """An iterator for each rank of a node; nothing runs before the first of them is asked.

    Args:
        plan: sizes, and limits over all nodes.
        labels: of the nodes that read and decode.
    """
    _configure_context(plan, num_nodes, labels)
    stored = ray.put(reader)

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        _keep_freed_memory()
        for row in batch.to_pylist():
            yield from ray.get(stored).read_blocks(_decode_task(row))

    dataset = ray.data.from_items([_encode_task(task) for task in tasks], override_num_blocks=len(tasks))
    dataset = dataset.map_batches(read, batch_size=None, batch_format="pyarrow", num_cpus=1)
    return list(dataset.streaming_split(num_ranks, equal=True))


def _configure_context(plan: StreamPlan, num_nodes: int, labels: Mapping[str, str]) -> None:
    context = DataContext.get_current()
    # Below one block's bytes, so that no two yields are merged; a block is only cut above 1.5 times the target.
    context.target_max_block_size = int(plan.block_bytes * 0.8)
    context.execution_options.preserve_order = True
    # A stream built by a worker counts all CPUs of the cluster as its own, though the workers hold some. A task that
    # is queued beyond them spares them a round of the scheduling loop.
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        cpu=max(1, plan.ingest_cpus // num_nodes) + plan.queued_tasks,
        object_store_memory=plan.object_store_bytes // num_nodes,
    )
    # All of the plan's bytes: Ray alone would stop at half of the store, and the queued task did not fit in.
    context.override_object_store_memory_limit_fraction = 1.0
    # A task does not wait for a round of that loop either (80 ms in each, measured). Ray books so many for each task.
    context._max_num_blocks_in_streaming_gen_buffer = MAX_UNREAD_BLOCKS
    context.memory_usage_poll_interval_s = None  # a thread a task, for a figure that nobody reads
    context.execution_options.label_selector = dict(labels) or None
    # A long evaluation or checkpoint pauses the consumer; Ray would take that for a hang and kill the run.
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [PacedScheduling]


class ReadAhead:
    """A rank's blocks of one execution, asked for by a thread: the first are there when the one before ends."""

    def __init__(self, iterator: DataIterator) -> None:
        self._blocks: queue.Queue[Any] = queue.Queue(maxsize=_PREFETCH_BLOCKS)
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(iterator,), name="read-ahead", daemon=True).start()

    def __iter__(self) -> Iterator[pa.Table]:
        """The blocks in their order; what the thread met is raised here."""
        while (block := self._blocks.get()) is not _END:
            if isinstance(block, Exception):
                raise block
            yield block

    def close(self) -> None:
        """Ask for no more."""
        self._closed.set()

    def _run(self, iterator: DataIterator) -> None:
        try:
            for block in iterator.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=_PREFETCH_BLOCKS
            ):
                if not self._put(block):
                    return
            self._put(_END)
        except Exception as error:  # noqa: BLE001  # raised where the blocks are used
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._blocks.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


@cache
def _keep_freed_memory() -> None:
    """Blocks reuse each other's memory: glibc would hand every large array back, and a tenth of a task was page faults.

    ``M_MMAP_THRESHOLD`` and ``M_TRIM_THRESHOLD`` of mallopt(3); other C libraries do as they always do.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 2**30)
        libc.mallopt(-1, 2**30)


def _encode_task(task: BlockTask) -> dict[str, Any]:
    """A task as a row of plain values."""
    return {"blocks": list(task.blocks), "visits": task.visits.astype("<u8").tobytes()}


def _decode_task(row: dict[str, Any]) -> BlockTask:
    visits = np.frombuffer(row["visits"], dtype="<u8").reshape(-1, NO_VISITS.shape[1])
    return BlockTask(tuple(row["blocks"]), visits)
