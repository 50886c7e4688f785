"""The endless order of one data set: epochs of permuted chunks, a pure function of (seed, data set, epoch).

A chunk is up to 64 consecutive samples of a shard, of which a selection may keep some; which, says a mask of bits.
``order.py`` mixes data sets and shuffles within windows.

With replacement the same permutations are used, of each only a sixteenth: an epoch is then a round, a circular stretch
of its permutation that begins at a random sample, so that every sample has the same chance in every round, whatever
came before. Trade-off: draws of different rounds are independent, those of one round are distinct, and neighbours are
drawn together, as a chunk. A sample comes Binomial(16, 1/16) times in 16 rounds, where single draws would give
Poisson(1): it is left out with a probability of 0.356 instead of 0.368. In return a chunk still costs one read, and a
row is still (data set, epoch, shard, index) and occurs once, so that the ledger, the crops and a resume need no more
than without replacement.

Memory: 9 bytes a chunk while it is kept whole by a selection, 1 otherwise, and 4 bytes a chunk for each epoch in use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.data.shard import CHUNK_SAMPLES

Integers = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint64]
VisitRows = npt.NDArray[np.uint64]
"""[visits, fields of ``ChunkVisit``]: a plan has too many for objects, and masks need all 64 bits."""

CHUNK_STREAM, WINDOW_STREAM, MIXTURE_STREAM = 0, 1, 2  # keep the uses of a seed apart
_WHOLE = np.uint64(2**64 - 1)
ROUNDS_PER_PASS = 16  # with replacement: the smaller a round, the less its samples exclude one another
_RANKS_PER_MARK = 4096  # chunks whose sizes are summed up again to find a position: keeping all sums costs 8 bytes each
_SLICE = 256 * _RANKS_PER_MARK


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


def visits_within(rows: VisitRows, ranges: Sequence[tuple[int, int]]) -> VisitRows:
    """Those of some visits, rising, that have a position in one of the ranges [start, stop)."""
    chosen = np.zeros(len(rows), dtype=bool)
    for start, stop in set(ranges):
        first = np.searchsorted(rows[:, -1], start, side="right")
        chosen[first : np.searchsorted(rows[:, -2], stop)] = True
    return rows[chosen]


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

    def shards_of(self, chunks: npt.NDArray[np.integer]) -> Integers:
        """The shard that holds each chunk."""
        return np.searchsorted(self.first_chunk, chunks, side="right") - 1


@dataclass(frozen=True)
class _EpochOrder:
    """The chunks of one epoch in their order, the place of every 4096th, and the place where the epoch begins."""

    chunks: npt.NDArray[np.int32]
    marks: Integers
    begin: int


class DatasetOrder:
    """The endless sequence of one data set's kept samples, chunk by chunk, each at most once an epoch.

    Args:
        table: its chunks.
        seed: the job's ``seed.data``.
        number: of the data set within the job.
        kept: the selection's masks, one a chunk; ``None`` keeps all.
        with_replacement: an epoch draws a sixteenth of the samples, instead of going through all of them.
    """

    def __init__(
        self,
        table: ChunkTable,
        seed: int,
        number: int = 0,
        kept: Masks | None = None,
        with_replacement: bool = False,
    ) -> None:
        assert kept is None or len(kept) == table.num_chunks, "a selection has one mask for every chunk"
        self.table = table
        self._seed, self._number, self._kept = seed, number, kept
        self._sizes = table.sizes() if kept is None else np.bitwise_count(kept)
        self.num_samples = int(self._sizes.sum(dtype=np.int64))
        """Kept samples."""
        self.epochs_per_pass = ROUNDS_PER_PASS if with_replacement else 1
        self.epoch_samples = max(1, self.num_samples // self.epochs_per_pass)
        """The length of an epoch."""
        self._epoch_order = lru_cache(maxsize=2)(self._permute_chunks)

    def visits(self, start: int, stop: int) -> VisitRows:
        """The chunks at positions [start, stop) of the sequence, in their order."""
        parts = [NO_VISITS]
        while start < stop:
            epoch, offset = divmod(start, self.epoch_samples)
            end = min(stop - start + offset, self.epoch_samples)
            parts.append(self._epoch_visits(epoch, offset, end))
            start += end - offset
        return np.concatenate(parts)

    def visited(self, epoch: int, stop: int) -> Masks:
        """One mask a chunk, for the caller to change: the samples at the first ``stop`` positions of an epoch."""
        if stop >= self.num_samples:
            return self.masks() if self._kept is None else self._kept.copy()
        begin = self._epoch_order(epoch).begin
        end = begin + min(stop, self.epoch_samples)
        masks = self._placed(epoch, min(end, self.num_samples))
        if begin:  # else nothing is left out before it, and nothing goes on at the front
            masks &= ~self._placed(epoch, begin)
            masks |= self._placed(epoch, max(end - self.num_samples, 0))
        return masks

    def epoch_masks(self, epoch: int) -> Masks:
        """One mask a chunk: the samples of a whole epoch."""
        return self.visited(epoch, self.epoch_samples)

    def masks(self) -> Masks:
        """One mask a chunk: the samples that are kept."""
        return self._kept if self._kept is not None else _WHOLE >> (np.uint64(CHUNK_SAMPLES) - self._sizes)

    def _placed(self, epoch: int, stop: int) -> Masks:
        """One mask a chunk: the samples at the first ``stop`` places of an epoch's permutation."""
        order = self._epoch_order(epoch)
        mark = int(np.searchsorted(order.marks, stop, side="right")) - 1
        masks = np.zeros(self.table.num_chunks, dtype=np.uint64)
        for part in _slices(order.chunks[: mark * _RANKS_PER_MARK]):
            masks[part] = self._masks_of(part)
        rows = self._permuted_visits(epoch, int(order.marks[mark]), stop)
        chunks = self.table.first_chunk[rows[:, 2].astype(np.int64)] + rows[:, 3].astype(np.int64)
        masks[chunks] = rows[:, 4]
        for visit in unpack_visits(rows[-1:]):  # the last may be a part of its chunk
            masks[chunks[-1]] = sum(1 << index % CHUNK_SAMPLES for index in visit.indices())
        return masks

    def _epoch_visits(self, epoch: int, start: int, stop: int) -> VisitRows:
        """Chunks at offsets [start, stop) of one epoch, whose places go round in a circle."""
        begin, parts = self._epoch_order(epoch).begin, [NO_VISITS]
        for lap in (0, self.num_samples):
            low, high = max(begin + start - lap, 0), min(begin + stop - lap, self.num_samples)
            if low < high:
                rows = self._permuted_visits(epoch, low, high)
                rows[:, -2:] += np.uint64((epoch * self.epoch_samples + lap - begin) % 2**64)  # unsigned: wraps around
                parts.append(rows)
        return np.concatenate(parts)

    def _permuted_visits(self, epoch: int, start: int, stop: int) -> VisitRows:
        """Chunks at places [start, stop) of an epoch's permutation; those places as their start and stop."""
        order = self._epoch_order(epoch)
        first = int(np.searchsorted(order.marks, start, side="right")) - 1
        last = int(np.searchsorted(order.marks, stop, side="left"))
        chunks = order.chunks[first * _RANKS_PER_MARK : last * _RANKS_PER_MARK]
        ends = order.marks[first] + np.cumsum(self._sizes[chunks], dtype=np.int64)
        begins = ends - self._sizes[chunks]
        chosen = (ends > start) & (begins < stop) & (ends > begins)
        chunks, begins, ends = chunks[chosen], begins[chosen], ends[chosen]
        shards = self.table.shards_of(chunks)
        lows, highs = np.maximum(begins, start), np.minimum(ends, stop)
        rows = np.empty((len(chunks), _NUM_FIELDS), dtype=np.uint64)
        columns = (self._number, epoch, shards, chunks - self.table.first_chunk[shards], self._masks_of(chunks))
        for at, column in enumerate((*columns, lows - begins, lows, highs)):
            rows[:, at] = column
        return rows

    def _masks_of(self, chunks: npt.NDArray[np.int32]) -> Masks:
        if self._kept is not None:
            return self._kept[chunks]
        return _WHOLE >> (np.uint64(CHUNK_SAMPLES) - self._sizes[chunks])

    def _permute_chunks(self, epoch: int) -> _EpochOrder:
        chunks = np.arange(self.table.num_chunks, dtype=np.int32)
        random = generator(self._seed, CHUNK_STREAM, self._number << 32 | epoch)
        random.shuffle(chunks)
        begin = int(random.integers(self.num_samples)) if self.epochs_per_pass > 1 else 0
        sums = [
            np.add.reduceat(self._sizes[part], np.arange(0, len(part), _RANKS_PER_MARK), dtype=np.int64)
            for part in _slices(chunks)
        ]
        return _EpochOrder(
            chunks, np.concatenate(([0], np.cumsum(np.concatenate([np.empty(0, np.int64), *sums]))[:-1])), begin
        )


def _slices(chunks: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    """Parts that begin at marks: numpy copies indices to 64 bits, of all chunks at once a multiple of their size."""
    return (chunks[start : start + _SLICE] for start in range(0, len(chunks), _SLICE))


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Random numbers for one use (``stream``) of a seed; ``number`` below 2**56."""
    return np.random.Generator(np.random.Philox(key=[seed, stream << 56 | number]))
