"""The read task of image-text shards: ranged reads of chunks, annotations joined, images decoded, captions chosen.

A sample with bad content is replaced by the next good one of its window, a function of the plan alone, and both are
named in the block. Faults of input or output are not content: they are retried by the storage and then raised. No Ray
here: ``stream.py`` runs the task.
"""

from bisect import bisect_right
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
        indexes = [open_index(source) for source in self.sources]
        positions = [self.shuffle.positions(*self.layout.positions(block)).tolist() for block in task.blocks]
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            window = _WindowReader(self, indexes, unpack_visits(task.visits), pool)
            window.prefetch(chain.from_iterable(positions))
            for block, places in zip(task.blocks, positions, strict=True):
                stamp = self.layout.stamp(block)
                images_BHWC = self.format.empty_images(len(places), self.format.size_at(stamp[0]))
                rows = [window.read_row(place, image_HWC) for place, image_HWC in zip(places, images_BHWC, strict=True)]
                yield self.format.pack(images_BHWC, rows, stamp)


class _Chunk(NamedTuple):
    """What is being read of one chunk."""

    samples: Future[list[RawSample]]
    annotations: Future[ChunkAnnotations]
    concepts: Future[ChunkConcepts] | None


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
        self._chunks: dict[tuple[int, int, int], _Chunk] = {}

    def prefetch(self, positions: Iterable[int]) -> None:
        """Start reading every chunk that ``positions`` need."""
        for position in positions:
            self._chunk(self._visits[self._visit_at(position)])

    def read_row(self, position: int, image_HWC: Uint8Array) -> Row:
        """The row at ``position``, or the next good one of its window if its content is bad; fills ``image_HWC``."""
        skipped = NOTHING_SKIPPED
        for candidate in self._candidates(position):
            at = self._visit_at(candidate)
            visit = self._visits[at]
            index = self._places[at][candidate - visit.start]
            try:
                return self._decode(visit, index, skipped, image_HWC)
            except BadSampleError as error:
                if skipped == NOTHING_SKIPPED:
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

    def _chunk(self, visit: ChunkVisit) -> _Chunk:
        key = (visit.dataset, visit.shard, visit.chunk)
        if key not in self._chunks:
            store = self._reader.sources[visit.dataset].store
            shard = self._indexes[visit.dataset].shards[visit.shard]
            plans = self._reader.format.annotations
            labeller = self._reader.format.labeller
            digests = [plan.digests[visit.dataset] for plan in plans]
            self._chunks[key] = _Chunk(
                self._pool.submit(read_chunk, store, shard, visit.chunk, self._fields),
                self._pool.submit(read_chunk_annotations, store, shard, visit.chunk, plans, digests),
                self._pool.submit(read_chunk_concepts, store, shard, visit.chunk, labeller.stored)
                if labeller and labeller.stored
                else None,
            )
        return self._chunks[key]

    def _decode(
        self, visit: ChunkVisit, index: int, skipped: tuple[int, int, int, int, int], image_HWC: Uint8Array
    ) -> Row:
        spec, size = self._reader.spec, len(image_HWC)
        chunk = self._chunk(visit)
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
