"""From positions of the run to blocks: Arrow tables of one micro batch, decoded, cropped and tokenised.

Owns the fused read task (no Ray here: ``stream.py`` runs it) and the block's format. A sample with bad content is
replaced by the next good one of its window, a function of the plan alone, and both are named in the block.
Faults of input or output are not content: they are retried by the storage and then raised.

Legend: B rows of a micro batch, H W image, T tokens, K most concepts of a row.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator import columns
from orchestrator.data.captions import choose_caption
from orchestrator.data.dataset_order import ChunkVisit, VisitRows, unpack_visits
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image, find_image
from orchestrator.data.index import DatasetIndex, load_index
from orchestrator.data.order import BlockLayout, WindowShuffle
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.data.tokens import CaptionTokenizer
from orchestrator.errors import BadSampleLimitError, DatasetError
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store
from orchestrator.wordnet.vocabulary import Vocabulary

_READ_THREADS = 8  # ranged reads wait on the storage, not on a core

Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class BlockTask:
    """What one read task makes: some blocks, out of ``visits``, the chunks of all windows that they touch."""

    blocks: tuple[int, ...]
    visits: VisitRows


Place = tuple[int, int, int, int]
"""(data set, epoch, shard, index) of a sample."""
_NOTHING_SKIPPED = (-1, -1, -1, -1, 0)


@dataclass(frozen=True)
class Row:
    """One row of a block before it is packed. ``skipped`` is the place and the reason of what it stands in for."""

    image_HWC: Uint8Array
    caption: str
    place: Place
    skipped: tuple[int, int, int, int, int] = _NOTHING_SKIPPED


@dataclass(frozen=True)
class BlockFormat:
    """Which content columns a block has, and how captions become them. Picklable.

    Args:
        content: names from ``orchestrator.columns`` that the objective reads.
        image_size: pixels a side.
        context: tokens of a caption (T).
        max_concepts: concepts of a row (K); what is beyond is the rarest and is left out.
    """

    content: tuple[str, ...]
    image_size: int
    context: int
    max_concepts: int
    tokenizer: CaptionTokenizer | None
    vocabulary: Vocabulary | None

    def pack(self, rows: Sequence[Row], stamp: tuple[int, int, int]) -> pa.Table:
        """Rows to one table: content, provenance and stamp columns."""
        arrays = {columns.IMAGE: _pack_images([row.image_HWC for row in rows], self.image_size)}
        captions = [row.caption for row in rows]
        if columns.TOKENS in self.content:
            assert self.tokenizer is not None, "an objective that reads tokens has a tokenizer"
            arrays[columns.TOKENS] = _pack_rows(self.tokenizer.encode(captions, self.context))
        if columns.CONCEPTS in self.content:
            arrays[columns.CONCEPTS] = _pack_rows(self._encode_concepts(captions))
        places = np.array([row.place for row in rows], np.int32)
        skipped = np.array([row.skipped for row in rows], np.int32)
        arrays |= dict(zip(columns.PROVENANCE, places.T.copy(), strict=True))
        arrays |= dict(zip((*columns.SKIPPED, columns.SKIP_REASON), skipped.T.copy(), strict=True))
        arrays |= {name: np.full(len(rows), value, np.int32) for name, value in zip(columns.STAMP, stamp, strict=True)}
        return pa.table(arrays)

    def _encode_concepts(self, captions: Sequence[str]) -> IntArray:
        assert self.vocabulary is not None, "an objective that reads concepts has a vocabulary"
        concepts_BK = np.full((len(captions), self.max_concepts), -1, np.int32)
        for row, caption in enumerate(captions):
            labels = self.vocabulary.labels(caption)[: self.max_concepts]
            concepts_BK[row, : len(labels)] = labels
        return concepts_BK


class BlockReader(Protocol):
    """Makes the blocks of a task; runs in a read task, so it pickles."""

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        """Blocks of ``task``, in order."""
        ...


@dataclass(frozen=True)
class ShardsSource:
    """A folder of shards, and the digest of the index that the order was computed from."""

    store: Store
    digest: str


@dataclass(frozen=True)
class ShardsBlockReader:
    """Blocks of image-text shards; a data set's number is its place among the sources."""

    sources: tuple[ShardsSource, ...]
    spec: ShardsSpec
    shuffle: WindowShuffle
    layout: BlockLayout
    format: BlockFormat

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        """Blocks of ``task``: ranged reads run ahead in threads, decoding follows in the order of the rows.

        Raises:
            ShardReadError, ShardDamagedError: a shard does not give what its index promises.
            BadSampleLimitError: a whole window holds no good sample.
        """
        indexes = [_open_index(source.store, source.digest) for source in self.sources]
        positions = [self.shuffle.positions(*self.layout.positions(block)).tolist() for block in task.blocks]
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            window = _WindowReader(self, indexes, unpack_visits(task.visits), pool)
            window.prefetch(chain.from_iterable(positions))
            for block, places in zip(task.blocks, positions, strict=True):
                rows = [window.read_row(place) for place in places]
                yield self.format.pack(rows, self.layout.stamp(block))


class _WindowReader:
    """Rows of one task by unpermuted position; each chunk is read once."""

    def __init__(
        self,
        reader: ShardsBlockReader,
        indexes: Sequence[DatasetIndex],
        visits: Sequence[ChunkVisit],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._reader = reader
        self._indexes = indexes
        self._visits = visits
        self._starts = [visit.start for visit in visits]
        self._places = [visit.indices() for visit in visits]
        self._pool = pool
        self._fields = {*reader.spec.image_fields, *reader.spec.caption_fields}
        self._chunks: dict[tuple[int, int, int], Future[list[RawSample]]] = {}

    def prefetch(self, positions: Iterable[int]) -> None:
        """Start reading every chunk that ``positions`` need."""
        for position in positions:
            self._chunk(self._visits[self._visit_at(position)])

    def read_row(self, position: int) -> Row:
        """The row at ``position``, or the next good one of its window if its content is bad."""
        skipped = _NOTHING_SKIPPED
        for candidate in self._candidates(position):
            at = self._visit_at(candidate)
            visit = self._visits[at]
            index = self._places[at][candidate - visit.start]
            try:
                return self._decode(visit, index, skipped)
            except BadSampleError as error:
                if skipped == _NOTHING_SKIPPED:
                    skipped = (visit.dataset, visit.epoch, visit.shard, index, error.code)
        raise BadSampleLimitError(
            f"{', '.join(source.store.uri for source in self._reader.sources)}: no sample of the "
            f"{self._visits[-1].stop - self._visits[0].start} in the window around position {position} has a usable "
            f"image and caption (last reason: {columns.SKIP_REASONS[skipped[-1]]}); check data.image_fields and "
            f"data.caption_fields"
        )

    def _candidates(self, position: int) -> Iterator[int]:
        low, high = self._reader.shuffle.bounds(position, position + 1)
        for step in range(high - low):
            yield low + (position - low + step) % (high - low)

    def _visit_at(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _chunk(self, visit: ChunkVisit) -> Future[list[RawSample]]:
        key = (visit.dataset, visit.shard, visit.chunk)
        if key not in self._chunks:
            store = self._reader.sources[visit.dataset].store
            shard = self._indexes[visit.dataset].shards[visit.shard]
            self._chunks[key] = self._pool.submit(read_chunk, store, shard, visit.chunk, self._fields)
        return self._chunks[key]

    def _decode(self, visit: ChunkVisit, index: int, skipped: tuple[int, int, int, int, int]) -> Row:
        reader = self._reader
        samples = self._chunk(visit).result()
        sample = samples[index - samples[0].index]
        draw = SampleDraw(reader.shuffle.seed, visit.epoch, visit.dataset, visit.shard, index)
        caption = choose_caption(sample, reader.spec.caption_fields, draw, reader.spec.caption_weights)
        data = find_image(sample, reader.spec.image_fields)
        pixels, _ = augment_image(data, reader.spec, reader.format.image_size, draw)
        return Row(pixels, caption, (visit.dataset, visit.epoch, visit.shard, index), skipped)


@dataclass(frozen=True)
class SyntheticBlockReader:
    """Blocks of noise, as cheap as can be: they show what the device could do without a loader."""

    num_samples: int
    seed: int
    layout: BlockLayout
    format: BlockFormat

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        """Blocks of ``task``; the same block number holds the same noise."""
        for block in task.blocks:
            yield self._make_block(block)

    def _make_block(self, block: int) -> pa.Table:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, block]))
        start, stop = self.layout.positions(block)
        size, pixels = self.layout.micro_size, self.format.image_size
        images = generator.integers(0, 256, (size, pixels, pixels, 3), dtype=np.uint8)
        rows = [
            Row(image, f"noise {position % 97}", (0, position // self.num_samples, 0, position % self.num_samples))
            for image, position in zip(images, range(start, stop), strict=True)
        ]
        return self.format.pack(rows, self.layout.stamp(block))


def unpack_block(block: pa.Table, image_size: int) -> dict[str, npt.NDArray[np.generic]]:
    """Columns of a block as arrays that share its memory: images uint8 [B, H, W, 3], lists int32 [B, n], rest [B]."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name in block.column_names:
        column = block.column(name)
        values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if pa.types.is_fixed_size_binary(values.type):
            width = values.type.byte_width
            flat = np.frombuffer(values.buffers()[1], np.uint8, len(values) * width, values.offset * width)
            arrays[name] = flat.reshape(-1, image_size, image_size, 3)
        elif pa.types.is_fixed_size_list(values.type):
            arrays[name] = values.flatten().to_numpy().reshape(-1, values.type.list_size)
        else:
            arrays[name] = values.to_numpy()
    return arrays


def _pack_images(images: Sequence[Uint8Array], size: int) -> pa.Array:
    packed_BHWC = np.stack(images)
    buffers = [None, pa.py_buffer(packed_BHWC)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(3 * size * size), len(images), buffers)


def _pack_rows(values_BN: IntArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_BN.reshape(-1)), values_BN.shape[1])


@lru_cache(maxsize=4)
def _open_index(store: Store, digest: str) -> DatasetIndex:
    """The index, once a process; another one than the order came from would read other samples."""
    index = load_index(store, verify=False)
    if index is None or index.digest != digest:
        raise DatasetError(f"{store.uri}: its index changed while the run was reading it; run the job again")
    return index
