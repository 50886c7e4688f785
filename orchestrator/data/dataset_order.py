"""The endless order of one data set: epochs of permuted chunks, a pure function of (seed, data set, epoch).

A chunk is up to 64 consecutive samples of a shard, of which a selection may keep some; which, says a mask of bits.
``order.py`` mixes data sets and shuffles within windows.

Memory: 9 bytes a chunk while it is kept whole by a selection, 1 otherwise, and 4 bytes a chunk for each epoch in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.data.shard import CHUNK_SAMPLES

Integers = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint64]
VisitRows = npt.NDArray[np.uint64]
"""[visits, fields of ``ChunkVisit``]: a plan has too many for objects, and masks need all 64 bits."""

CHUNK_STREAM, WINDOW_STREAM = 0, 1  # keep the two uses of a seed apart
_WHOLE = np.uint64(2**64 - 1)
_RANKS_PER_MARK = 4096  # chunks whose sizes are summed up again to find a position: keeping all sums costs 8 bytes each


@dataclass(frozen=True)
class ChunkVisit:
    """One visit to a chunk: the unpermuted positions [start, stop) are some of its kept samples, in their order."""

    dataset: int
    epoch: int
    shard: int
    chunk: int
    """Within its shard."""
    kept: int
    """Bit i: whether sample i of the chunk is kept by the data set's selection."""
    skip: int
    """Kept samples of the chunk that lie before position ``start``."""
    start: int
    stop: int

    def indices(self) -> list[int]:
        """Index within the shard of the sample at each of the positions [start, stop)."""
        kept = [bit for bit in range(self.kept.bit_length()) if self.kept >> bit & 1]
        base = self.chunk * CHUNK_SAMPLES
        return [base + bit for bit in kept[self.skip : self.skip + self.stop - self.start]]


_NUM_FIELDS = len(fields(ChunkVisit))
NO_VISITS: VisitRows = np.empty((0, _NUM_FIELDS), dtype=np.uint64)


def unpack_visits(rows: VisitRows) -> list[ChunkVisit]:
    """Rows as visits."""
    return [ChunkVisit(*row) for row in rows.tolist()]


class ChunkTable:
    """The chunks of a data set, numbered through all of its shards."""

    def __init__(self, shard_sizes: Sequence[int] | Integers) -> None:
        """``shard_sizes``: samples of each shard."""
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.first_chunk: Integers = np.concatenate(([0], np.cumsum(-(-sizes // CHUNK_SAMPLES))))
        """Number of each shard's first chunk; one entry more than shards."""
        self.num_samples = int(sizes.sum())
        self._sizes = sizes

    @property
    def num_chunks(self) -> int:
        """Over all shards."""
        return int(self.first_chunk[-1])

    def sizes(self) -> npt.NDArray[np.uint8]:
        """Samples of each chunk; only the last of a shard may be short."""
        sizes = np.full(self.num_chunks, CHUNK_SAMPLES, dtype=np.uint8)
        filled = self._sizes > 0
        last = self.first_chunk[1:][filled] - 1
        sizes[last] = (self._sizes[filled] - 1) % CHUNK_SAMPLES + 1
        return sizes

    def shard_of(self, chunk: int) -> int:
        """The shard that holds a chunk."""
        return int(np.searchsorted(self.first_chunk, chunk, side="right")) - 1


@dataclass(frozen=True)
class _EpochOrder:
    """The chunks of one epoch in their order, and the position of every 4096th."""

    chunks: npt.NDArray[np.int32]
    marks: Integers


class DatasetOrder:
    """The endless sequence of one data set's kept samples, chunk by chunk, each once an epoch.

    Args:
        table: its chunks.
        seed: the job's ``seed.data``.
        number: of the data set within the job.
        kept: the selection's masks, one a chunk; ``None`` keeps all.
    """

    def __init__(self, table: ChunkTable, seed: int, number: int = 0, kept: Masks | None = None) -> None:
        assert kept is None or len(kept) == table.num_chunks, "a selection has one mask for every chunk"
        self.table = table
        self._seed, self._number, self._kept = seed, number, kept
        self._sizes = table.sizes() if kept is None else np.bitwise_count(kept)
        self.num_samples = int(self._sizes.sum(dtype=np.int64))
        """Kept samples: the length of an epoch."""
        self._epoch_order = lru_cache(maxsize=2)(self._permute_chunks)

    def visits(self, start: int, stop: int) -> VisitRows:
        """The chunks at positions [start, stop) of the sequence, in their order."""
        parts = [NO_VISITS]
        while start < stop:
            epoch, offset = divmod(start, self.num_samples)
            end = min(stop - start + offset, self.num_samples)
            parts.append(self._epoch_visits(epoch, offset, end))
            start += end - offset
        return np.concatenate(parts)

    def visited(self, epoch: int, stop: int) -> Masks:
        """One mask a chunk: the samples at the first ``stop`` positions of an epoch."""
        masks = np.zeros(self.table.num_chunks, dtype=np.uint64)
        if stop >= self.num_samples:
            return self.masks()
        order = self._epoch_order(epoch)
        ranks = int(np.searchsorted(np.cumsum(self._sizes[order.chunks], dtype=np.int64), stop, side="right"))
        whole = order.chunks[:ranks]
        masks[whole] = self.masks()[whole]
        done = int(self._sizes[whole].sum(dtype=np.int64))
        for visit in unpack_visits(self._epoch_visits(epoch, done, stop)):
            chunk = int(self.table.first_chunk[visit.shard]) + visit.chunk
            masks[chunk] = sum(1 << index % CHUNK_SAMPLES for index in visit.indices())
        return masks

    def masks(self) -> Masks:
        """One mask a chunk: the samples that are kept."""
        return self._kept if self._kept is not None else _WHOLE >> (np.uint64(CHUNK_SAMPLES) - self._sizes)

    def _epoch_visits(self, epoch: int, start: int, stop: int) -> VisitRows:
        """Chunks at offsets [start, stop) of one epoch."""
        order = self._epoch_order(epoch)
        first = int(np.searchsorted(order.marks, start, side="right")) - 1
        last = int(np.searchsorted(order.marks, stop, side="left"))
        chunks = order.chunks[first * _RANKS_PER_MARK : last * _RANKS_PER_MARK]
        ends = order.marks[first] + np.cumsum(self._sizes[chunks], dtype=np.int64)
        begins = ends - self._sizes[chunks]
        chosen = (ends > start) & (begins < stop) & (ends > begins)
        chunks, begins, ends = chunks[chosen], begins[chosen], ends[chosen]
        shards = np.searchsorted(self.table.first_chunk, chunks, side="right") - 1
        lows, highs, base = np.maximum(begins, start), np.minimum(ends, stop), epoch * self.num_samples
        rows = np.empty((len(chunks), _NUM_FIELDS), dtype=np.uint64)
        columns = (self._number, epoch, shards, chunks - self.table.first_chunk[shards], self._masks_of(chunks))
        for at, column in enumerate((*columns, lows - begins, base + lows, base + highs)):
            rows[:, at] = column
        return rows

    def _masks_of(self, chunks: npt.NDArray[np.int32]) -> Masks:
        if self._kept is not None:
            return self._kept[chunks]
        return _WHOLE >> (np.uint64(CHUNK_SAMPLES) - self._sizes[chunks])

    def _permute_chunks(self, epoch: int) -> _EpochOrder:
        chunks = np.arange(self.table.num_chunks, dtype=np.int32)
        generator(self._seed, CHUNK_STREAM, self._number << 32 | epoch).shuffle(chunks)
        sums = np.add.reduceat(self._sizes[chunks], np.arange(0, len(chunks), _RANKS_PER_MARK), dtype=np.int64)
        return _EpochOrder(chunks, np.concatenate(([0], np.cumsum(sums)[:-1])))


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Random numbers for one use (``stream``) of a seed; ``number`` below 2**56."""
    return np.random.Generator(np.random.Philox(key=[seed, stream << 56 | number]))
