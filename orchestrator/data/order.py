"""The order of samples: which sample stands at which position of the run, a pure function of seed and index.

Algorithm. Shards are cut into chunks of 64 consecutive samples, each read with one ranged read. Every epoch of a data
set permutes all of its chunks from (seed, data set, epoch); its epochs, one behind the other, make an endless sequence
of samples (``dataset_order.py``; there also how a data set is drawn with replacement). Windows of equal size tile the
run. A window takes from each data set the next samples of its sequence, as many as the data set's share says, and is
permuted within itself from (seed, window), as told below. Position p of the run is the p-th sample of the result;
global batches are its slices one behind the other, whatever the number of workers (``spec/batches.py``), and a resume
is a position.

Shares. Of the first w windows data set d has floor(w * size * S_d) - floor(w * size * S_(d-1)) samples, S_d being the
sum of the shares up to d: exact over every stretch of the run to within one sample, without a random draw. Their
chunks follow one another in a random order, so that no rank gets one data set's alone.

Slots. A window holds a whole number T of global batches, and a batch has as many slots as samples. Slot s takes the T
consecutive samples from s * T of the window on, one for each batch, in a random order. A chunk's samples are spread
over the batches of a window as evenly as can be, and at the same time lie in neighbouring slots: the blocks of one node
need few chunks, and a chunk is read by one node. A permutation of the whole window mixes the batches no better, since
a loss sees a batch as a set, and has every read task of every node need nearly every chunk (28 to 57 reads a chunk in
recipes of 256 workers, by ``spec/stream_reads.py``).

Trade-off. A window gathers ``window / chunk`` chunks from anywhere in the data, so that samples that lie side by side
in a shard are spread over a window instead of the epoch: not a full permutation, but one that costs a ranged read a
chunk instead of one a sample. A batch of B samples out of windows of T batches holds samples of B * T / chunk chunks.
A window may span the border of two epochs; each sample keeps its own epoch number and still occurs once in it. A batch
may then hold a sample twice, for a contrastive loss a false negative: of N samples in all, W in a window and B in a
batch, about W * B / (6 * N) an epoch (22 of 4,000 with W = 2,048 and B = 256; 4 of 20,000). Cutting windows at the
borders would leave a third of them, in a batch of a few chunks' neighbours.

No state, no generator that outlives a call.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from orchestrator.data.dataset_order import (
    MIXTURE_STREAM,
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

_NEIGHBOURING_SLOTS = 256


@dataclass(frozen=True)
class WindowShuffle:
    """The permutation within windows: all that a read task needs to know of the order.

    Args:
        size: samples of a window.
        seed: the job's ``seed.data``.
        batches: the global batches; a window is made of whole ones where they are all of one size.
    """

    size: int
    seed: int
    batches: Batches

    def positions(self, start: int, stop: int) -> Integers:
        """Unpermuted positions of the samples that stand at positions [start, stop) of the run."""
        parts = [np.empty(0, dtype=np.int64)]
        for window in self._windows(start, stop):
            low = window * self.size
            parts.append(_permutation(self, window)[max(start - low, 0) : stop - low] + low)
        return np.concatenate(parts)

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """Positions of all windows that [start, stop) touches."""
        return start // self.size * self.size, -(-stop // self.size) * self.size

    def neighbours(self, position: int) -> tuple[int, int]:
        """The unpermuted positions, around one of them, among which a substitute for its sample is looked for.

        Those of some 256 slots: enough to find a good sample, and few enough to lie in chunks that are at hand.
        """
        low = position // self.size * self.size
        slots = self.slots(position // self.size)
        depth, groups = self.size // slots, max(1, slots // _NEIGHBOURING_SLOTS)
        group = (position - low) // depth * groups // slots
        first, behind = (-(-bound * slots // groups) * depth for bound in (group, group + 1))
        return low + first, low + behind

    def reach(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Unpermuted positions that the samples at positions [start, stop) of the run come from, or their substitutes.

        Ranges of one window each.
        """
        ranges = []
        for window in self._windows(start, stop):
            low, slots = window * self.size, self.slots(window)
            depth = self.size // slots
            first, behind = max(start - low, 0), min(stop - low, self.size)
            wraps = first % slots + behind - first > slots  # into the next batch
            sides = [(0, slots)] if wraps else [(first % slots, first % slots + behind - first)]
            for left, right in sides:
                least, _ = self.neighbours(low + left * depth)
                _, most = self.neighbours(low + right * depth - 1)
                ranges.append((least, most))
        return ranges

    def _windows(self, start: int, stop: int) -> range:
        return range(start // self.size, -(-stop // self.size))

    def slots(self, window: int) -> int:
        """Slots of the batches of a window: the most that divide it and all of their sizes."""
        first, last = (
            self.batches.step_at(position) for position in (window * self.size, (window + 1) * self.size - 1)
        )
        if first >= self.batches.num_phased_steps:
            return math.gcd(self.size, self.batches.global_size)
        return math.gcd(self.size, *(self.batches.size_at(step) for step in range(first, last + 1)))


@lru_cache(maxsize=2)  # a task asks for its blocks one by one, and those of a window have it in common
def _permutation(shuffle: WindowShuffle, window: int) -> Integers:
    """Offset within the window, before it is permuted, of each of its samples: batch by batch, slot by slot."""
    slots = shuffle.slots(window)
    depth = shuffle.size // slots
    offsets_SD = np.arange(shuffle.size, dtype=np.int64).reshape(slots, depth)
    if depth > 1:
        offsets_SD = generator(shuffle.seed, WINDOW_STREAM, window).permuted(offsets_SD, axis=1)
    return offsets_SD.T.reshape(-1)


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
            position, mixed = window * self.shuffle.size, []
            for number, dataset in enumerate(self.datasets):
                first, behind = self.taken(number, window), self.taken(number, window + 1)
                rows = dataset.visits(first, behind)
                rows[:, -2:] += np.uint64(position) - np.uint64(first)  # start and stop; unsigned numbers wrap around
                mixed.append(rows)
                position += behind - first
            parts.append(self._mix(np.concatenate(mixed), window) if len(mixed) > 1 else mixed[0])
        return np.concatenate(parts)

    def _mix(self, rows: VisitRows, window: int) -> VisitRows:
        """The visits of a window's data sets in a random order, at positions one behind the other."""
        mixed = rows[generator(self.shuffle.seed, MIXTURE_STREAM, window).permutation(len(rows))]
        sizes = mixed[:, -1] - mixed[:, -2]
        mixed[:, -1] = np.uint64(window * self.shuffle.size) + np.cumsum(sizes)
        mixed[:, -2] = mixed[:, -1] - sizes
        return mixed

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
