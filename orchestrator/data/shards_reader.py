"""The read task of image-text shards: ranged reads of chunks, annotations joined, images decoded, captions chosen.

A sample with bad content is replaced by the next good one among its neighbours (``order.py``), a function of the plan
alone, and both are named in the block. Faults of input or output are not content: they are retried by the storage and
then raised. No Ray here: ``stream.py`` runs the task.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
from orchestrator.errors import BadSampleLimitError
from orchestrator.spec.job import ShardsSpec

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
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            rows_of = _RowReader(self, indexes, unpack_visits(task.visits), pool, chain.from_iterable(positions))
            for block, places in zip(task.blocks, positions, strict=True):
                stamp = self.layout.stamp(block)
                images_BHWC = self.format.empty_images(len(places), self.format.size_at(stamp[0]))
                rows = [rows_of.read(place, image_HWC) for place, image_HWC in zip(places, images_BHWC, strict=True)]
                yield self.format.pack(images_BHWC, rows, stamp)


class _Chunk(NamedTuple):
    """What is being read of one chunk."""

    samples: Future[list[RawSample]]
    annotations: Future[ChunkAnnotations]
    concepts: Future[ChunkConcepts] | None


class _RowReader:
    """Rows of one task by unpermuted position; each chunk is read once, ahead of its rows, and let go behind them."""

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
        self._rows_left = Counter(map(self._visit_at, positions))
        self._by_need = list(self._rows_left)  # in the order of their first rows
        self._need = {at: number for number, at in enumerate(self._by_need)}
        self._num_begun = 0

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
            self._chunk(at)
        self._num_begun = max(self._num_begun, num_chunks)

    def _good_row(self, position: int, image_HWC: Uint8Array) -> Row:
        skipped = NOTHING_SKIPPED
        for candidate in self._candidates(position):
            at = self._visit_at(candidate)
            visit = self._visits[at]
            index = self._places[at][candidate - visit.start]
            try:
                return self._decode(at, index, skipped, image_HWC)
            except BadSampleError as error:
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

    def _chunk(self, at: int) -> _Chunk:
        if at not in self._chunks:
            visit = self._visits[at]
            store = self._reader.sources[visit.dataset].store
            shard = self._indexes[visit.dataset].shards[visit.shard]
            plans = self._reader.format.annotations
            labeller = self._reader.format.labeller
            digests = [plan.digests[visit.dataset] for plan in plans]
            self._chunks[at] = _Chunk(
                self._pool.submit(read_chunk, store, shard, visit.chunk, self._fields),
                self._pool.submit(read_chunk_annotations, store, shard, visit.chunk, plans, digests),
                self._pool.submit(read_chunk_concepts, store, shard, visit.chunk, labeller.stored)
                if labeller and labeller.stored
                else None,
            )
        return self._chunks[at]

    def _decode(self, at: int, index: int, skipped: tuple[int, int, int, int, int], image_HWC: Uint8Array) -> Row:
        spec, size = self._reader.spec, len(image_HWC)
        visit, chunk = self._visits[at], self._chunk(at)
        samples, annotations = chunk.samples.result(), chunk.annotations.result()
        sample = samples[index - samples[0].index]
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
