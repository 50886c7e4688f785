"""The order of samples: which sample stands at which position of the run, a pure function of seed and index.

Algorithm. Shards are cut into chunks of 64 consecutive samples, each read with one ranged read. Every epoch of a data
set permutes all of its chunks from (seed, data set, epoch); its epochs, one behind the other, make an endless sequence
of samples (``dataset_order.py``; there also how a data set is drawn with replacement). Windows of equal size tile the
run. A window takes from each data set the next samples of its sequence, as many as the data set's share says, and is
permuted within itself from (seed, window). Position p of the run is the p-th sample of the result; global batches are
its slices one behind the other, whatever the number of workers (``spec/batches.py``), and a resume is a position.

Shares. Of the first w windows data set d has floor(w * size * S_d) - floor(w * size * S_(d-1)) samples, S_d being the
sum of the shares up to d: exact over every stretch of the run to within one sample, without a random draw.

Trade-off. A window gathers ``window / chunk`` chunks from anywhere in the data, so that samples that lie side by side
in a shard are spread over a window instead of the epoch: not a full permutation, but one that costs a ranged read a
chunk instead of one a sample. A window may span the border of two epochs; each sample keeps its own epoch number and
still occurs once in it.

No state, no generator that outlives a call.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from orchestrator.data.dataset_order import (
    WINDOW_STREAM,
    DatasetOrder,
    Integers,
    Masks,
    VisitRows,
    generator,
    unpack_visits,
)
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.spec.batches import Batches


@dataclass(frozen=True)
class WindowShuffle:
    """The permutation within windows: all that a read task needs to know of the order.

    Args:
        size: samples of a window.
        seed: the job's ``seed.data``.
    """

    size: int
    seed: int

    def positions(self, start: int, stop: int) -> Integers:
        """Unpermuted positions of the samples that stand at positions [start, stop) of the run."""
        parts = [np.empty(0, dtype=np.int64)]
        for window in range(start // self.size, -(-stop // self.size)):
            low = window * self.size
            permutation = generator(self.seed, WINDOW_STREAM, window).permutation(self.size) + low
            parts.append(permutation[max(start - low, 0) : stop - low])
        return np.concatenate(parts)

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """Positions of all windows that [start, stop) touches."""
        return start // self.size * self.size, -(-stop // self.size) * self.size


class SampleOrder:
    """The endless order of all samples of a run.

    Args:
        datasets: the sequences that are mixed.
        shuffle: the permutation within windows.
        weights: the data sets' shares as whole numbers, to any common scale.
    """

    def __init__(self, datasets: Sequence[DatasetOrder], shuffle: WindowShuffle, weights: Sequence[int] = (1,)) -> None:
        self.datasets = tuple(datasets)
        self.shuffle = shuffle
        self._cumulated = [0, *accumulate(weights)]

    def taken(self, dataset: int, window: int) -> int:
        """How many samples of a data set the first ``window`` windows hold."""
        total = window * self.shuffle.size
        low, high = (total * self._cumulated[at] // self._cumulated[-1] for at in (dataset, dataset + 1))
        return high - low

    def window_visits(self, start: int, stop: int) -> VisitRows:
        """The chunks of all windows that positions [start, stop) of the run touch, in unpermuted order."""
        low, high = self.shuffle.bounds(start, stop)
        parts = []
        for window in range(low // self.shuffle.size, high // self.shuffle.size):
            position = window * self.shuffle.size
            for number, dataset in enumerate(self.datasets):
                first, behind = self.taken(number, window), self.taken(number, window + 1)
                rows = dataset.visits(first, behind)
                rows[:, -2:] += np.uint64(position) - np.uint64(first)  # start and stop; unsigned numbers wrap around
                parts.append(rows)
                position += behind - first
        return np.concatenate(parts)

    def epoch_masks(self, key: tuple[int, int]) -> Masks:
        """One mask a chunk: the samples of a whole (data set, epoch)."""
        return self.datasets[key[0]].epoch_masks(key[1])

    def planned(self, stop: int) -> dict[tuple[int, int], Masks]:
        """The samples at positions [0, stop) by (data set, epoch), one mask a chunk; whole epochs are left out.

        What the ledger is compared with. Epochs are those that have begun and of which some position is still to come.
        """
        window = stop // self.shuffle.size
        planned = {}
        for number, dataset in enumerate(self.datasets):
            first, behind = self.taken(number, window), self.taken(number, window + 1)
            for epoch in range(first // dataset.epoch_samples, -(-behind // dataset.epoch_samples)):
                planned[number, epoch] = dataset.visited(epoch, max(first - epoch * dataset.epoch_samples, 0))
        low = window * self.shuffle.size
        visits = unpack_visits(self.window_visits(low, stop)) if low < stop else []
        starts = [visit.start for visit in visits]
        for position in self.shuffle.positions(low, stop).tolist():
            visit = visits[bisect_right(starts, position) - 1]
            shard, within = divmod(visit.indices()[position - visit.start], CHUNK_SAMPLES)
            chunk = int(self.datasets[visit.dataset].table.first_chunk[visit.shard]) + shard
            planned[visit.dataset, visit.epoch][chunk] |= np.uint64(1 << within)
        return planned


@dataclass(frozen=True)
class BlockLayout:
    """Which positions of the run a block holds, and for whom: blocks are dealt round-robin to the ranks.

    Block k of the run is (step, micro batch, rank) by arithmetic, and holds ``micro_size`` positions from
    ``k * micro_size`` on; a global batch is the same positions at every world size. Each is made of as many blocks for
    every rank.
    """

    batches: Batches
    micro_size: int
    world_size: int

    def num_micro(self, step: int) -> int:
        """Blocks of each rank in ``step``."""
        return self.batches.size_at(step) // (self.micro_size * self.world_size)

    def blocks(self, steps: range, ranks: Iterable[int]) -> list[int]:
        """Those of some steps and ranks, in order."""
        size = self.micro_size * self.world_size
        micro_batches = range(self.batches.start(steps.start) // size, self.batches.start(steps.stop) // size)
        own = sorted(ranks)
        return [micro * self.world_size + rank for micro in micro_batches for rank in own]

    def stamp(self, block: int) -> tuple[int, int, int]:
        """(step, rank, micro batch) of a block."""
        step = self.batches.step_at(block * self.micro_size)
        micro, rank = divmod(block - self.batches.start(step) // self.micro_size, self.world_size)
        return step, rank, micro

    def positions(self, block: int) -> tuple[int, int]:
        """First position of the run that a block holds, and the one behind its last."""
        return block * self.micro_size, (block + 1) * self.micro_size
