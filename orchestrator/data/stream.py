"""The stream: blocks of one micro batch from read tasks to ranks, over Ray Data.

Owns the Ray side of the data plane: tasks, limits, dealing, and the check that what arrives is what the plan says.
With ``preserve_order`` and blocks of equal size, ``streaming_split(equal=True)`` deals block k to rank k % W; that is
how Ray 2.60 behaves, not what it promises, so every block carries its stamp and every worker compares.

A stream is a chain of bounded executions, since planning costs time and memory by the task. One process builds each
execution and hands the iterators to the others; ``share`` does that (``ray.train.collective`` in training).
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext, DataIterator, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback

from orchestrator import columns
from orchestrator.data.blocks import BlockReader, BlockTask
from orchestrator.data.order import BlockLayout, ChunkVisit, SampleOrder
from orchestrator.errors import StreamOrderError
from orchestrator.spec.plan import StreamPlan
from orchestrator.spec.resolve import MAX_TASKS_PER_EXECUTION

logger = logging.getLogger(__name__)

_PREFETCH_BLOCKS = 2
_SCHEDULING_PAUSE_S = 0.01

Share = Callable[[list[DataIterator] | None], list[DataIterator]]


class PacedScheduling(ExecutionCallback):
    """Keeps Ray's scheduling loop from spinning: while blocks wait for a slow reader it burnt half a core (measured).

    A hundred rounds a second are far more than blocks need.
    """

    def on_execution_step(self, executor: object) -> None:
        """Called once a round."""
        time.sleep(_SCHEDULING_PAUSE_S)


class BlockStream:
    """One rank's blocks, in order.

    Args:
        reader: what a read task executes.
        order: the order of samples; ``None`` for synthetic blocks.
        layout: which block is whose.
        plan: sizes and limits.
        rank: whose blocks these are; rank 0 builds the executions.
        share: broadcasts from rank 0; called by all ranks at the start of each execution.
    """

    def __init__(
        self,
        reader: BlockReader,
        order: SampleOrder | None,
        layout: BlockLayout,
        plan: StreamPlan,
        rank: int,
        share: Share,
    ) -> None:
        self._reader = reader
        self._order = order
        self._layout = layout
        self._plan = plan
        self._rank = rank
        self._share = share

    def blocks(self, first_step: int, stop_step: int) -> Iterator[pa.Table]:
        """This rank's blocks of steps [first_step, stop_step), ``num_micro`` of them a step.

        Raises:
            StreamOrderError: a block is missing, or another one arrived than the plan names.
        """
        expected = iter(self._expected_stamps(first_step, stop_step))
        for start, stop in self._executions(first_step, stop_step):
            built = self._build_execution(start, stop) if self._rank == 0 else None
            iterator = self._share(built)[self._rank]
            for block in iterator.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=_PREFETCH_BLOCKS
            ):
                _check_stamp(block, next(expected, None), self._layout.micro_size)
                yield block
        missing = next(expected, None)
        if missing is not None:
            raise StreamOrderError(f"the stream ended before block (step, rank, micro batch) = {missing} arrived")

    def _expected_stamps(self, first_step: int, stop_step: int) -> Iterator[tuple[int, int, int]]:
        for step in range(first_step, stop_step):
            for micro in range(self._layout.num_micro):
                yield step, self._rank, micro

    def _executions(self, first_step: int, stop_step: int) -> Iterator[tuple[int, int]]:
        """Block ranges of at most ``MAX_TASKS_PER_EXECUTION`` tasks, each of whole steps."""
        per_step = self._layout.blocks_per_step
        steps = max(1, MAX_TASKS_PER_EXECUTION * self._plan.blocks_per_task // per_step)
        for start in range(first_step, stop_step, steps):
            yield start * per_step, min(start + steps, stop_step) * per_step

    def _build_execution(self, start_block: int, stop_block: int) -> list[DataIterator]:
        tasks = plan_tasks(self._order, self._layout, self._plan.blocks_per_task, start_block, stop_block)
        self._configure_context()
        reader = ray.put(self._reader)

        def read(batch: pa.Table) -> Iterator[pa.Table]:
            for row in batch.to_pylist():
                yield from ray.get(reader).read_blocks(_decode_task(row))

        dataset = ray.data.from_items([_encode_task(task) for task in tasks], override_num_blocks=len(tasks))
        dataset = dataset.map_batches(read, batch_size=None, batch_format="pyarrow", num_cpus=1)
        return list(dataset.streaming_split(self._layout.world_size, equal=True))

    def _configure_context(self) -> None:
        context = DataContext.get_current()
        # Below one block's bytes, so that no two yields are merged; a block is only cut above 1.5 times the target.
        context.target_max_block_size = int(self._plan.block_bytes * 0.8)
        context.execution_options.preserve_order = True
        # A stream built by a worker counts all CPUs of the cluster as its own, though the workers hold some.
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            cpu=self._plan.ingest_cpus, object_store_memory=self._plan.object_store_bytes
        )
        # A long evaluation or checkpoint pauses the consumer; Ray would take that for a hang and kill the run.
        context.execution_no_progress_timeout_s = -1
        context.enable_progress_bars = False
        context.custom_execution_callback_classes = [PacedScheduling]


def plan_tasks(
    order: SampleOrder | None, layout: BlockLayout, blocks_per_task: int, start_block: int, stop_block: int
) -> list[BlockTask]:
    """Read tasks of blocks [start_block, stop_block); their borders do not depend on where the stream starts."""
    tasks = []
    first = start_block
    while first < stop_block:
        stop = min((first // blocks_per_task + 1) * blocks_per_task, stop_block)
        low, high = layout.positions(first)[0], layout.positions(stop - 1)[1]
        visits = tuple(order.window_visits(low, high)) if order else ()
        tasks.append(BlockTask(first, stop - first, visits))
        first = stop
    return tasks


def _check_stamp(block: pa.Table, expected: tuple[int, int, int] | None, micro_size: int) -> None:
    found = tuple(block.column(name)[0].as_py() for name in columns.STAMP)
    if found != expected or block.num_rows != micro_size:
        raise StreamOrderError(
            f"block (step, rank, micro batch) = {found} with {block.num_rows} rows arrived where the plan has "
            f"{expected} with {micro_size}; Ray dealt the blocks in another way than release 2.60 does"
        )


def _encode_task(task: BlockTask) -> dict[str, Any]:
    """A task as a row of plain integers."""
    visits = [number for visit in task.visits for number in vars(visit).values()]
    return {"first_block": task.first_block, "num_blocks": task.num_blocks, "visits": visits}


def _decode_task(row: dict[str, Any]) -> BlockTask:
    numbers = row["visits"]
    width = len(ChunkVisit.__dataclass_fields__)
    visits = tuple(ChunkVisit(*numbers[at : at + width]) for at in range(0, len(numbers), width))
    return BlockTask(row["first_block"], row["num_blocks"], visits)
