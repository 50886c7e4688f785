"""The read task of image-text shards: ranged reads of chunks, annotations joined, images decoded, captions chosen.

A sample with bad content is replaced by the next good one among its neighbours (``order.py``), a function of the plan
alone, and both are named in the block. Faults of input or output are not content: they are retried by the storage and
then raised. No Ray here: ``stream.py`` runs the task.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from orchestrator import columns
from orchestrator.data.annotation_join import ChunkAnnotations, read_chunk_annotations
from orchestrator.data.blocks import NOTHING_SKIPPED, BlockFormat, BlockTask, Row, Uint8Array
from orchestrator.data.captions import draw_captions
from orchestrator.data.concept_labels import ChunkConcepts, read_chunk_concepts
from orchestrator.data.dataset_order import ChunkVisit, unpack_visits
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image, find_image
from orchestrator.data.index import DatasetIndex
from orchestrator.data.node_index import ShardsSource, open_index
from orchestrator.data.order import BlockLayout, WindowShuffle
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import BadSampleLimitError
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.stream_reads import MAX_TASK_BYTES
from orchestrator.storage.store import Store

_READ_THREADS = 8  # ranged reads wait on the storage, not on a core
_CHUNKS_AHEAD = 2 * _READ_THREADS  # read before their first row is decoded: a bound on what a task holds


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
            BadSampleLimitError: all neighbours of a sample are bad, too.
        """
        indexes = [open_index(source) for source in self.sources]
        positions = [self.shuffle.positions(*self.layout.positions(block)).tolist() for block in task.blocks]
        with ThreadPoolExecutor(_num_threads(indexes)) as pool:
            rows_of = _RowReader(self, indexes, unpack_visits(task.visits), pool, chain.from_iterable(positions))
            for block, places in zip(task.blocks, positions, strict=True):
                stamp = self.layout.stamp(block)
                images_BHWC = self.format.empty_images(len(places), self.format.size_at(stamp[0]))
                rows = [rows_of.read(place, image_HWC) for place, image_HWC in zip(places, images_BHWC, strict=True)]
                yield self.format.pack(images_BHWC, rows, stamp)


def _num_threads(indexes: Iterable[DatasetIndex]) -> int:
    """Of reads; their chunks are whole until what no row needs is let go, so that of large images there are fewer."""
    chunk_bytes = max(CHUNK_SAMPLES * index.size_bytes / max(index.num_samples, 1) for index in indexes)
    return max(1, min(_READ_THREADS, int(MAX_TASK_BYTES / max(chunk_bytes, 1))))


class _Chunk(NamedTuple):
    """What is being read of one chunk."""

    samples: Future[dict[int, RawSample]]
    """Those that the task's rows need, by index."""
    annotations: Future[ChunkAnnotations]
    concepts: Future[ChunkConcepts] | None


class _RowReader:
    """Rows of one task by unpermuted position; each chunk is read once, ahead of its rows, and let go behind them.

    Of a chunk the samples of these rows are held, no others: the rest of it may be of other tasks. For a substitute
    that is none of them its chunk is read once more.
    """

    def __init__(
        self,
        reader: ShardsBlockReader,
        indexes: Sequence[DatasetIndex],
        visits: Sequence[ChunkVisit],
        pool: ThreadPoolExecutor,
        positions: Iterable[int],
    ) -> None:
        """``positions``: of all rows, in the order in which they will be read."""
        self._reader = reader
        self._indexes = indexes
        self._visits = visits
        self._starts = [visit.start for visit in visits]
        self._places = [visit.indices() for visit in visits]
        self._pool = pool
        self._fields = {*reader.spec.image_fields, *reader.spec.caption_fields}
        self._chunks: dict[int, _Chunk] = {}
        self._wanted: dict[int, set[int]] = {}  # indices of each visit, in the order of their first rows
        for position in positions:
            at, index = self._place(position)
            self._wanted.setdefault(at, set()).add(index)
        self._rows_left = {at: len(indices) for at, indices in self._wanted.items()}
        self._by_need = list(self._wanted)
        self._need = {at: number for number, at in enumerate(self._by_need)}
        self._num_begun = 0
        self._whole: tuple[int, _Chunk] | None = None  # the last that was read for a substitute

    def read(self, position: int, image_HWC: Uint8Array) -> Row:
        """The row at ``position``, or the next good one of its neighbours if it is bad; fills ``image_HWC``."""
        at = self._visit_at(position)
        self._read_ahead(self._need[at] + 1 + _CHUNKS_AHEAD)
        row = self._good_row(position, image_HWC)
        self._rows_left[at] -= 1
        if not self._rows_left[at]:
            del self._chunks[at]
        return row

    def _read_ahead(self, num_chunks: int) -> None:
        """Have begun to read that many of the chunks that are needed first."""
        for at in self._by_need[self._num_begun : num_chunks]:
            self._chunks[at] = self._begin(at, self._wanted[at])
        self._num_begun = max(self._num_begun, num_chunks)

    def _good_row(self, position: int, image_HWC: Uint8Array) -> Row:
        skipped = NOTHING_SKIPPED
        for candidate in self._candidates(position):
            at, index = self._place(candidate)
            try:
                return self._decode(at, index, skipped, image_HWC)
            except BadSampleError as error:
                visit = self._visits[at]
                if skipped == NOTHING_SKIPPED:
                    skipped = (visit.dataset, visit.epoch, visit.shard, index, error.code)
        low, high = self._reader.shuffle.neighbours(position)
        raise BadSampleLimitError(
            f"{', '.join(source.store.uri for source in self._reader.sources)}: no sample of the {high - low} around "
            f"position {position} has a usable image and caption "
            f"(last reason: {columns.SKIP_REASONS[skipped[-1]]}); check data.image_fields and data.caption_fields"
        )

    def _candidates(self, position: int) -> Iterator[int]:
        yield position
        low, high = self._reader.shuffle.neighbours(position)
        for step in range(1, high - low):
            yield low + (position - low + step) % (high - low)

    def _visit_at(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _place(self, position: int) -> tuple[int, int]:
        """Visit, and index within its shard, of the sample at ``position``."""
        at = self._visit_at(position)
        return at, self._places[at][position - self._visits[at].start]

    def _chunk_with(self, at: int, index: int) -> _Chunk:
        """A chunk of which that sample is held: a row's own always is, a substitute may have to be read."""
        held = self._chunks.get(at)
        if held is not None and index in self._wanted[at]:
            return held
        if self._whole is None or self._whole[0] != at:
            self._whole = at, self._begin(at, self._places[at])
        return self._whole[1]

    def _begin(self, at: int, wanted: Collection[int]) -> _Chunk:
        visit = self._visits[at]
        store = self._reader.sources[visit.dataset].store
        shard = self._indexes[visit.dataset].shards[visit.shard]
        plans = self._reader.format.annotations
        labeller = self._reader.format.labeller
        digests = [plan.digests[visit.dataset] for plan in plans]
        return _Chunk(
            self._pool.submit(_read_samples, store, shard, visit.chunk, self._fields, wanted),
            self._pool.submit(read_chunk_annotations, store, shard, visit.chunk, plans, digests),
            self._pool.submit(read_chunk_concepts, store, shard, visit.chunk, labeller.stored)
            if labeller and labeller.stored
            else None,
        )

    def _decode(self, at: int, index: int, skipped: tuple[int, int, int, int, int], image_HWC: Uint8Array) -> Row:
        spec, size = self._reader.spec, len(image_HWC)
        visit, chunk = self._visits[at], self._chunk_with(at, index)
        sample, annotations = chunk.samples.result()[index], chunk.annotations.result()
        sample.require_members()
        annotations.check_presence(sample)
        draw = SampleDraw(self._reader.shuffle.seed, visit.epoch, visit.dataset, visit.shard, index)
        drawn = draw_captions(sample, spec.caption_fields, draw, spec.caption_weights, spec.captions_per_image)
        labels = self._labels(chunk, sample, drawn)
        pixels, crop = augment_image(find_image(sample, spec.image_fields), spec, size, draw)
        values = annotations.values(sample, crop, size, spec.max_image_pixels)
        np.copyto(image_HWC, pixels)
        captions = tuple(caption for _, caption in drawn)
        return Row(captions, (visit.dataset, visit.epoch, visit.shard, index), skipped, values, labels)

    def _labels(self, chunk: _Chunk, sample: RawSample, drawn: Sequence[tuple[str, str]]) -> list[int] | None:
        """Of all captions that were drawn, each once; None where the objective reads none."""
        labeller = self._reader.format.labeller
        if labeller is None:
            return None
        if chunk.concepts is None:
            labels = labeller.labels_of_all(caption for _, caption in drawn)
        else:
            stored = chunk.concepts.result()
            concepts = {concept for field, _ in drawn for concept in stored.of(sample, field)}
            labels = labeller.vocabulary.indices(concepts)
        if not labels and labeller.resamples:
            raise BadSampleError(columns.NO_CONCEPT)
        return labels


def _read_samples(
    store: Store, shard: ShardRow, chunk: int, fields: Collection[str], wanted: Collection[int]
) -> dict[int, RawSample]:
    return {sample.index: sample for sample in read_chunk(store, shard, chunk, fields) if sample.index in wanted}
