"""The order of samples: which sample stands at which position of the run, a pure function of seed and index.

Algorithm. Shards are cut into chunks of a few dozen consecutive samples, each read with one ranged read. Every
epoch permutes all chunks of all shards from (seed, epoch); the epochs, one behind the other, make an endless
sequence of samples. Windows of equal size tile that sequence, and each window is permuted within itself from
(seed, window). Position p of the run is the p-th sample of the result; global batch s is positions
[s * G, (s + 1) * G), whatever the number of workers, and a resume is a position.

Trade-off. A window gathers ``window / chunk`` chunks from anywhere in the data set, so that samples that lie side
by side in a shard are spread over a window instead of the epoch: not a full permutation, but one that costs a
ranged read a chunk instead of one a sample. A window may span the border of two epochs; each sample keeps its own
epoch number and still occurs once in it.

Memory: 12 bytes a chunk and epoch in use (two at a border). No state, no generator that outlives a call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_CHUNK_STREAM, _WINDOW_STREAM = 0, 1  # keep the two uses of a seed apart


@dataclass(frozen=True)
class ChunkVisit:
    """One visit to a chunk: the unpermuted positions [start, stop) are its samples from ``first`` on."""

    epoch: int
    shard: int
    chunk: int
    first: int
    """Index within the shard of the sample at position ``start``."""
    start: int
    stop: int


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
        parts = []
        for window in range(start // self.size, -(-stop // self.size)):
            low = window * self.size
            permutation = _generator(self.seed, _WINDOW_STREAM, window).permutation(self.size) + low
            parts.append(permutation[max(start - low, 0) : stop - low])
        return np.concatenate(parts)

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """Positions of all windows that [start, stop) touches."""
        return start // self.size * self.size, -(-stop // self.size) * self.size


class SampleOrder:
    """The endless order of one data set's samples.

    Args:
        shard_sizes: samples of each shard.
        chunk_size: samples of a chunk; the last chunk of a shard may hold fewer.
        shuffle: the permutation within windows; its seed also orders the chunks.
    """

    def __init__(self, shard_sizes: Sequence[int], chunk_size: int, shuffle: WindowShuffle) -> None:
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        chunks_per_shard = -(-sizes // chunk_size)
        self.chunk_size = chunk_size
        self.shuffle = shuffle
        self.num_samples = int(sizes.sum())
        self._shard_of_chunk = np.repeat(np.arange(len(sizes), dtype=np.int32), chunks_per_shard)
        self._first_chunk_of_shard = np.concatenate(([0], np.cumsum(chunks_per_shard)[:-1])).astype(np.int64)
        within = np.arange(len(self._shard_of_chunk)) - self._first_chunk_of_shard[self._shard_of_chunk]
        self._chunk_sizes = np.minimum(chunk_size, sizes[self._shard_of_chunk] - within * chunk_size)
        self._epoch_chunks = lru_cache(maxsize=2)(self._permute_chunks)

    def window_visits(self, start: int, stop: int) -> list[ChunkVisit]:
        """The chunks of all windows that positions [start, stop) of the run touch, in unpermuted order."""
        low, high = self.shuffle.bounds(start, stop)
        visits: list[ChunkVisit] = []
        while low < high:
            epoch, offset = divmod(low, self.num_samples)
            end = min(high - low + offset, self.num_samples)
            visits.extend(self._epoch_visits(epoch, offset, end))
            low += end - offset
        return visits

    def _epoch_visits(self, epoch: int, start: int, stop: int) -> list[ChunkVisit]:
        """Chunks at offsets [start, stop) of one epoch."""
        chunks, ends = self._epoch_chunks(epoch)
        base = epoch * self.num_samples
        visits = []
        for rank in range(int(np.searchsorted(ends, start, side="right")), len(chunks)):
            chunk = int(chunks[rank])
            begin = int(ends[rank] - self._chunk_sizes[chunk])
            if begin >= stop:
                break
            shard = int(self._shard_of_chunk[chunk])
            within = chunk - int(self._first_chunk_of_shard[shard])
            low, high = max(begin, start), min(int(ends[rank]), stop)
            first = within * self.chunk_size + low - begin
            visits.append(ChunkVisit(epoch, shard, within, first, base + low, base + high))
        return visits

    def _permute_chunks(self, epoch: int) -> tuple[npt.NDArray[np.int32], Integers]:
        """All chunks in the order of ``epoch``, and the position behind the last sample of each."""
        chunks = (
            _generator(self.shuffle.seed, _CHUNK_STREAM, epoch).permutation(len(self._chunk_sizes)).astype(np.int32)
        )
        return chunks, np.cumsum(self._chunk_sizes[chunks])


@dataclass(frozen=True)
class BlockLayout:
    """Which positions of the run a block holds, and for whom: blocks are dealt round-robin to the ranks.

    Block k of the run is (step, micro batch, rank) by arithmetic, and holds ``micro_size`` positions from
    ``k * micro_size`` on; a global batch is the same positions at every world size.
    """

    micro_size: int
    num_micro: int
    world_size: int

    @property
    def blocks_per_step(self) -> int:
        """Blocks of one global batch."""
        return self.num_micro * self.world_size

    def stamp(self, block: int) -> tuple[int, int, int]:
        """(step, rank, micro batch) of a block."""
        step, within = divmod(block, self.blocks_per_step)
        micro, rank = divmod(within, self.world_size)
        return step, rank, micro

    def positions(self, block: int) -> tuple[int, int]:
        """First position of the run that a block holds, and the one behind its last."""
        return block * self.micro_size, (block + 1) * self.micro_size


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream << 56 | number]))
