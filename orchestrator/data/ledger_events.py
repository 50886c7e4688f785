"""What happened to samples, read from the rows of blocks that entered a step: the ledger's input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator import columns
from orchestrator.data.shard import CHUNK_SAMPLES

Integers = npt.NDArray[np.int64]

TRAINED = 0
"""Kind of an event; any other is an index into ``columns.SKIP_REASONS``. A substitute's training is ``SUBSTITUTED``;
a row that was trained without one of its annotations is ``UNANNOTATED`` beside."""
SUBSTITUTED = 255
UNANNOTATED = 254
LEFT_OUT = 253
"""Of a step that was not taken."""
_NO_CONCEPT = columns.SKIP_REASONS.index(columns.NO_CONCEPT)


@dataclass(frozen=True)
class Events:
    """What happened to samples, one row each: int64 arrays of equal length."""

    key: Integers
    """data set << 32 | epoch"""
    chunk: Integers
    """Numbered through all shards of the data set."""
    within: Integers
    kind: Integers

    def __len__(self) -> int:
        return len(self.key)

    @property
    def is_skip(self) -> npt.NDArray[np.bool_]:
        """Which events are samples that were skipped."""
        return (self.kind != TRAINED) & (self.kind < LEFT_OUT)

    @property
    def is_bad(self) -> npt.NDArray[np.bool_]:
        """Which of them were bad; nothing is wrong with a caption that names no concept."""
        return self.is_skip & (self.kind != _NO_CONCEPT)

    @classmethod
    def stack(cls, parts: Sequence["Events"]) -> "Events":
        """One after the other."""
        empty = np.empty(0, dtype=np.int64)
        return cls(*(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name in cls.names()))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the arrays."""
        return tuple(cls.__dataclass_fields__)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Events":
        """Some of the rows."""
        return Events(*(getattr(self, name)[chosen] for name in self.names()))


def block_events(
    block: Mapping[str, npt.NDArray[np.generic]], first_chunks: Sequence[Integers], left_out: bool = False
) -> Events:
    """The events of a block that came to a step, from its provenance columns.

    Args:
        first_chunks: of each data set, ``ChunkTable.first_chunk``.
        left_out: whether the step was not taken; then a substitute, whose sample has a place of its own, is no event.
    """
    reason = block[columns.SKIP_REASON].astype(np.int64)
    replaced = reason != 0
    planned = [block[name].astype(np.int64)[replaced] for name in columns.SKIPPED]
    trained = [block[name].astype(np.int64) for name in columns.PROVENANCE]
    skipped = _events(planned, reason[replaced], first_chunks)
    if left_out:
        kept = [values[~replaced] for values in trained]
        return Events.stack([_events(kept, np.full(len(kept[0]), LEFT_OUT), first_chunks), skipped])
    parts = [_events(trained, np.where(replaced, SUBSTITUTED, TRAINED), first_chunks), skipped]
    if presence := [block[name].astype(bool) for name in block if columns.is_presence(name)]:
        lacking = ~np.logical_and.reduce(presence)
        without = [values[lacking] for values in trained]
        parts.append(_events(without, np.full(len(without[0]), UNANNOTATED), first_chunks))
    return Events.stack(parts)


def _events(place: Sequence[Integers], kind: Integers, first_chunks: Sequence[Integers]) -> Events:
    """``place``: data set, epoch, shard and index."""
    dataset, epoch, shard, index = place
    chunk = np.zeros(len(dataset), dtype=np.int64)
    for number, first_chunk in enumerate(first_chunks):
        of_this = dataset == number
        chunk[of_this] = first_chunk[shard[of_this]] + index[of_this] // CHUNK_SAMPLES
    return Events(dataset << 32 | epoch, chunk, index % CHUNK_SAMPLES, kind)
