"""From positions of the run to blocks: Arrow tables of one micro batch, decoded, cropped and tokenised.

Owns what a read task is and the block's format; ``shards_reader.py`` makes the rows, ``stream.py`` runs the tasks.

Legend: B rows of a micro batch, H W image, T tokens, K most concepts of a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator import columns
from orchestrator.data.annotation_join import Values, pack_annotation
from orchestrator.data.concepts import Labeller
from orchestrator.data.dataset_order import VisitRows
from orchestrator.data.order import BlockLayout
from orchestrator.data.tokens import CaptionTokenizer
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.resolution import ImageSizes
from orchestrator.wordnet.vocabulary import Vocabulary

Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class BlockTask:
    """What one read task makes: some blocks, out of ``visits``, the chunks of their samples and of the substitutes."""

    blocks: tuple[int, ...]
    visits: VisitRows


Place = tuple[int, int, int, int]
"""(data set, epoch, shard, index) of a sample."""
NOTHING_SKIPPED = (-1, -1, -1, -1, 0)


@dataclass(frozen=True)
class Row:
    """One row of a block before it is packed, without its image. ``skipped`` is the place and the reason of what it
    stands in for, ``annotations`` what ``annotation_join`` gave, ``labels`` what the captions mean where that is known
    already. All rows of a block have as many captions."""

    captions: tuple[str, ...]
    place: Place
    skipped: tuple[int, int, int, int, int] = NOTHING_SKIPPED
    annotations: Values = field(default_factory=dict)
    labels: Sequence[int] | None = None


@dataclass(frozen=True)
class BlockFormat:
    """Which content columns a block has, and how captions become them. Picklable.

    Args:
        content: names from ``orchestrator.columns`` that the objective reads.
        image_size: pixels a side.
        image_sizes: of each step, where it is not the same for all.
        context: tokens of a caption (T).
        max_concepts: concepts of a row (K); what is beyond is the rarest, is left out and counted.
        annotations: what is joined to the rows; all of their columns are in a block.
    """

    content: tuple[str, ...]
    image_size: int
    context: int
    max_concepts: int
    tokenizer: CaptionTokenizer | None
    labeller: Labeller | None
    annotations: tuple[AnnotationPlan, ...] = ()
    image_sizes: ImageSizes | None = None

    def size_at(self, step: int) -> int:
        """Pixels a side in ``step`` (from 0)."""
        return self.image_sizes.at(step) if self.image_sizes else self.image_size

    @property
    def _largest_size(self) -> int:
        return self.image_sizes.all[-1] if self.image_sizes else self.image_size

    def empty_images(self, num_rows: int, size: int) -> Uint8Array:
        """Where the images of a block are written before they are packed: uint8 [B, size, size, 3].

        Each row has room for the largest size: Ray merges blocks that are smaller than those the stream was told of.
        """
        rooms_BN = np.empty((num_rows, 3 * self._largest_size**2), np.uint8)
        rooms_BN[:, 3 * size**2 :] = 0
        return rooms_BN[:, : 3 * size**2].reshape(num_rows, size, size, 3)

    def pack(self, images_BHWC: Uint8Array, rows: Sequence[Row], stamp: tuple[int, int, int]) -> pa.Table:
        """``empty_images`` that were filled, which the table shares, and the rest of their rows: content, provenance
        and stamp columns.
        """
        arrays = {columns.IMAGE: _pack_images(images_BHWC)}
        if columns.TOKENS in self.content:
            assert self.tokenizer is not None, "an objective that reads tokens has a tokenizer"
            captions = [caption for row in rows for caption in row.captions]
            arrays[columns.TOKENS] = _pack_rows(self.tokenizer.encode(captions, self.context).reshape(len(rows), -1))
        if columns.CONCEPTS in self.content:
            arrays[columns.CONCEPTS] = _pack_rows(self._encode_concepts(rows))
        for annotation in self.annotations:
            arrays |= pack_annotation(annotation, [row.annotations for row in rows], self.image_size)
        places = np.array([row.place for row in rows], np.int32)
        skipped = np.array([row.skipped for row in rows], np.int32)
        arrays |= dict(zip(columns.PROVENANCE, places.T.copy(), strict=True))
        arrays |= dict(zip((*columns.SKIPPED, columns.SKIP_REASON), skipped.T.copy(), strict=True))
        arrays |= {name: np.full(len(rows), value, np.int32) for name, value in zip(columns.STAMP, stamp, strict=True)}
        return pa.table(arrays)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Of the labels, where the objective reads concepts."""
        return self.labeller.vocabulary if self.labeller else None

    def _encode_concepts(self, rows: Sequence[Row]) -> IntArray:
        assert self.labeller is not None, "an objective that reads concepts has a labeller"
        concepts_BK = np.full((len(rows), self.max_concepts + 1), -1, np.int32)
        for number, row in enumerate(rows):
            labels = self.labeller.labels_of_all(row.captions) if row.labels is None else row.labels
            kept = labels[: self.max_concepts]
            concepts_BK[number, : len(kept)] = kept
            concepts_BK[number, -1] -= len(labels) - len(kept)
        return concepts_BK


class BlockReader(Protocol):
    """Makes the blocks of a task; runs in a read task, so it pickles."""

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        """Blocks of ``task``, in order."""
        ...


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
        stamp = self.layout.stamp(block)
        images_BHWC = self.format.empty_images(self.layout.micro_size, self.format.size_at(stamp[0]))
        images_BHWC[...] = generator.integers(0, 256, images_BHWC.shape, dtype=np.uint8)
        rows = [
            Row((f"noise {position % 97}",), (0, position // self.num_samples, 0, position % self.num_samples))
            for position in range(start, stop)
        ]
        return self.format.pack(images_BHWC, rows, stamp)


def unpack_block(block: pa.Table, image_size: int) -> dict[str, npt.NDArray[np.generic]]:
    """Columns of a block as arrays that share its memory: images uint8 [B, H, W, 3], lists [B, n], rest [B].

    Lists of numbers shorter than 32 bits are dense annotations: [B, H, W], or [B, H, W, 3].
    """
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name in block.column_names:
        column = block.column(name)
        values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if pa.types.is_fixed_size_binary(values.type):
            width = values.type.byte_width
            flat = np.frombuffer(values.buffers()[1], np.uint8, len(values) * width, values.offset * width)
            pixels = flat.reshape(len(values), width)[:, : 3 * image_size**2]
            arrays[name] = pixels.reshape(-1, image_size, image_size, 3)
        elif pa.types.is_fixed_size_list(values.type):
            flat = values.flatten().to_numpy()
            if flat.itemsize < 4:
                shape = (image_size, image_size, values.type.list_size // image_size**2)
                arrays[name] = flat.reshape(-1, *(shape if shape[2] > 1 else shape[:2]))
            else:
                arrays[name] = flat.reshape(-1, values.type.list_size)
        else:
            arrays[name] = values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type))
    return arrays


def _pack_images(images_BHWC: Uint8Array) -> pa.Array:
    room_bytes = images_BHWC.strides[0]
    rooms = images_BHWC if images_BHWC.base is None else images_BHWC.base  # with what ``empty_images`` left free
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(room_bytes), len(images_BHWC), [None, pa.py_buffer(rooms)])


def _pack_rows(values_BN: IntArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_BN.reshape(-1)), values_BN.shape[1])
