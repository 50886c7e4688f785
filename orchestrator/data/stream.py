"""The stream: one rank's blocks of one micro batch, in order, checked against the plan.

One stream a node: its lowest rank builds it, its ranks share it, and its tasks run there (or on nodes with the labels
of ``StreamPlan.ingest_labels``), so that a chunk is read by one node and a block does not cross the network. A task
makes all blocks of a window that its node's ranks get, or as many as it may hold: a chunk is then read by one task.
A stream is a chain of bounded executions (``execution.py``), since planning costs time and memory by the task; each is
planned in a thread while the one before it runs and started before that one ends, so that no step waits at a border.
"""

import logging
import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby, pairwise

import pyarrow as pa
from ray.data import DataIterator

from orchestrator import columns
from orchestrator.data.blocks import BlockReader, BlockTask
from orchestrator.data.dataset_order import NO_VISITS, visits_within
from orchestrator.data.execution import ReadAhead, build_execution
from orchestrator.data.order import BlockLayout, SampleOrder
from orchestrator.errors import StreamOrderError
from orchestrator.spec.plan import StreamPlan

logger = logging.getLogger(__name__)

# What is still to come of an execution when the next one starts: until the border both fill the object store, so no
# more than the next one's first blocks take.
_LEAD_FRACTION, _LEAD_TASKS_PER_CPU = 0.25, 8

Share = Callable[[list[DataIterator] | None], list[DataIterator]]


@dataclass(frozen=True)
class StreamPlace:
    """Where a rank stands: which ranks share its node and stream."""

    rank: int
    node_ranks: tuple[int, ...]
    """All ranks of this node, rising; the first builds the stream."""
    num_nodes: int = 1
    node_id: str | None = None
    """Ray's; None: tasks run anywhere."""

    @property
    def leads(self) -> bool:
        """Whether this rank builds its node's executions."""
        return self.rank == self.node_ranks[0]


class BlockStream:
    """One rank's blocks, in order.

    Args:
        reader: what a read task executes.
        order: the order of samples, where this rank leads; ``None`` elsewhere and for synthetic blocks.
        layout: which block is whose.
        plan: sizes and limits.
        place: this rank among the others.
        share: hands a leader's iterators to all ranks of its node; called by all ranks at the start of each execution.
    """

    def __init__(
        self,
        reader: BlockReader,
        order: SampleOrder | None,
        layout: BlockLayout,
        plan: StreamPlan,
        place: StreamPlace,
        share: Share,
    ) -> None:
        self._reader = reader
        self._order = order
        self._layout = layout
        self._plan = plan
        self._place = place
        self._share = share

    def blocks(self, first_step: int, stop_step: int) -> Generator[pa.Table, None, None]:
        """This rank's blocks of steps [first_step, stop_step), as many of a step as the layout says.

        Raises:
            StreamOrderError: a block is missing, or another one arrived than the plan names.
        """
        executions = self._executions(first_step, stop_step)
        with ExitStack() as running, ThreadPoolExecutor(1, thread_name_prefix="plan-execution") as planner:
            upcoming = self._start(self._plan_ahead(planner, executions[0]), running)
            for number, (start, stop) in enumerate(executions):
                current = iter(upcoming)
                is_last = number + 1 == len(executions)
                built = None if is_last else self._plan_ahead(planner, executions[number + 1])
                lead = stop - max(1, min(int((stop - start) * _LEAD_FRACTION), self._lead_steps(stop)))
                for step in range(start, stop):
                    if step == lead and not is_last:
                        upcoming = self._start(built, running)
                    for micro in range(self._layout.num_micro(step)):
                        yield self._checked(next(current, None), (step, self._place.rank, micro))
                if (extra := next(current, None)) is not None:
                    self._checked(extra, None)

    def _start(self, built: Future[list[DataIterator]] | None, running: ExitStack) -> ReadAhead:
        iterators = self._share(built.result() if built else None)
        own = iterators[self._place.node_ranks.index(self._place.rank)]
        return running.enter_context(closing(ReadAhead(own)))

    def _plan_ahead(self, planner: ThreadPoolExecutor, steps: tuple[int, int]) -> Future[list[DataIterator]] | None:
        return planner.submit(self._build, *steps) if self._place.leads else None

    def _build(self, start_step: int, stop_step: int) -> list[DataIterator]:
        labels = self._plan.ingest_labels
        if not labels and self._place.node_id is not None:
            labels = {"ray.io/node-id": self._place.node_id}
        steps, ranks = range(start_step, stop_step), self._place.node_ranks
        tasks = plan_tasks(self._order, self._layout, self._plan, steps, ranks)
        return build_execution(self._reader, tasks, self._plan, len(ranks), self._place.num_nodes, labels)

    def _executions(self, first_step: int, stop_step: int) -> list[tuple[int, int]]:
        """Step ranges of at most ``tasks_per_execution`` tasks a node, or of one step."""
        batches = self._layout.batches
        size = self._samples_of(self._plan.tasks_per_execution)
        ranges, start = [], first_step
        while start < stop_step:
            stop = min(max(start + 1, batches.step_at(batches.start(start) + size)), stop_step)
            ranges.append((start, stop))
            start = stop
        return ranges

    def _lead_steps(self, stop_step: int) -> int:
        """How many steps before ``stop_step`` the next execution starts, where it is long enough."""
        batches = self._layout.batches
        cpus = max(1, self._plan.ingest_cpus // self._place.num_nodes)
        lead = max(batches.start(stop_step) - self._samples_of(_LEAD_TASKS_PER_CPU * cpus), 0)
        return stop_step - batches.step_at(lead)

    def _samples_of(self, num_tasks: int) -> int:
        """Of the whole run, while one node does so many tasks; those of one window at least."""
        micro_step = self._layout.micro_size * self._layout.world_size
        stretch = max(self._plan.window // micro_step, 1)  # micro batches that tasks do not go beyond
        of_stretch = math.ceil(stretch * len(self._place.node_ranks) / self._plan.blocks_per_task)
        if self._plan.window < micro_step:
            of_stretch = len(self._place.node_ranks)
        return max(num_tasks // of_stretch, 1) * stretch * micro_step

    def _checked(self, block: pa.Table | None, expected: tuple[int, int, int] | None) -> pa.Table:
        if block is None:
            raise StreamOrderError(f"the stream ended before block (step, rank, micro batch) = {expected} arrived")
        found = tuple(block.column(name)[0].as_py() for name in columns.STAMP)
        if found != expected or block.num_rows != self._layout.micro_size:
            raise StreamOrderError(
                f"block (step, rank, micro batch) = {found} with {block.num_rows} rows arrived where the plan has "
                f"{expected} with {self._layout.micro_size}; Ray dealt the blocks in another way than release 2.60 does"
            )
        return block


def plan_tasks(
    order: SampleOrder | None, layout: BlockLayout, plan: StreamPlan, steps: range, ranks: Sequence[int]
) -> list[BlockTask]:
    """Read tasks of the blocks that some steps bring to some ranks.

    Those of a window are dealt evenly to as few tasks as may be; no task spans more windows than a block does.
    """
    tasks = []
    for _, of_window in groupby(layout.blocks(steps, ranks), lambda block: layout.positions(block)[0] // plan.window):
        blocks = tuple(of_window)
        num_tasks = math.ceil(len(blocks) / plan.blocks_per_task)
        bounds = [len(blocks) * number // num_tasks for number in range(num_tasks + 1)]
        groups = [blocks[start:stop] for start, stop in pairwise(bounds)]
        if order is None:
            tasks += [BlockTask(group, NO_VISITS) for group in groups]
            continue
        visits = order.window_visits(layout.positions(blocks[0])[0], layout.positions(blocks[-1])[1])
        for group in groups:
            reach = [bounds for block in group for bounds in order.shuffle.reach(*layout.positions(block))]
            tasks.append(BlockTask(group, visits_within(visits, reach)))
    return tasks
