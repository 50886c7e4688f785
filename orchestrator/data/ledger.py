"""The ledger: which samples entered an optimizer step, counted from the rows themselves, never from the plan.

A row is (data set, epoch, shard, index). Of every epoch in use a ledger keeps two bits a sample, trained and skipped
(or left out, with its step), of which one is set, and counts what is beyond: samples that had another turn, rows that
stood in for a bad one, samples skipped by reason, samples left out.
An epoch of which every sample is accounted for is closed: its counts stay, its bits go. What should have been trained
is asked of the order, afterwards, by ``report``.

A ledger may hold a part of the chunks only, so that ranks can share one (``training/shared_ledger.py``); parts add up.

Size: 16 bytes a chunk of 64 samples in memory, and stored about a bit a chunk, since of nearly all chunks either all
samples that the selection keeps are trained, or none. So nobody reads a stored ledger without the selection.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import columns
from orchestrator.data.dataset_order import Masks
from orchestrator.data.ledger_events import LEFT_OUT, SUBSTITUTED, TRAINED, UNANNOTATED, Events, Integers
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.errors import CheckpointError

EpochKey = tuple[int, int]
"""(data set, epoch)."""
EpochMasks = Callable[[EpochKey], Masks]
"""The samples of a whole epoch, one mask a chunk (``SampleOrder.epoch_masks``)."""

KeptMasks = Callable[[int], Masks]
"""The samples of a data set that its selection keeps, one mask a chunk (``DatasetOrder.masks``)."""

_ALL = np.uint64(2**64 - 1)

_VERSION = b"2"
_VERSION_OF_ALL = b"1"  # a chunk was whole where all of its 64 samples were trained, whatever the selection
_SCHEMA = pa.schema(
    {
        "dataset": pa.int32(),
        "epoch": pa.int32(),
        "counts": pa.string(),
        "kept": pa.string(),  # digest of the masks that ``whole`` speaks of; null where those are all ones
        "whole": pa.large_binary(),
        "trained_at": pa.list_(pa.int64()),
        "trained": pa.list_(pa.uint64()),
        "skipped_at": pa.list_(pa.int64()),
        "skipped": pa.list_(pa.uint64()),
    }
)


@dataclass
class EpochCounts:
    """What happened in one epoch of a data set, in samples."""

    trained: int = 0
    """Different samples; what came again, or had been skipped or left out, is ``repeated``."""
    repeated: int = 0
    substituted: int = 0
    left_out: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    unannotated: int = 0
    """Rows trained without one of the annotations that the objective reads, substitutes included."""
    inherited: int = 0
    """Samples that had their turn in the run that this one started from."""

    def add(self, other: "EpochCounts") -> None:
        """Take another part's counts in."""
        self.trained += other.trained
        self.repeated += other.repeated
        self.substituted += other.substituted
        self.left_out += other.left_out
        self.skipped.update(other.skipped)
        self.unannotated += other.unannotated
        self.inherited += other.inherited

    def as_inherited(self) -> "EpochCounts":
        """What a run that goes on from here says of what came before: not its own."""
        had_their_turn = self.trained + self.left_out + sum(self.skipped.values()) + self.inherited
        return EpochCounts(inherited=had_their_turn)


@dataclass
class EpochBits:
    """Two masks a chunk, for chunks [first_chunk, first_chunk + len(trained))."""

    first_chunk: int
    trained: Masks
    skipped: Masks

    def take(self, turns: Events) -> Events:
        """Set the bits of samples that have their turn; returns the events of those that had none before.

        A sample has one turn, whatever becomes of it: trained first and skipped later, it was repeated.
        """
        place = turns.chunk - self.first_chunk
        bit = np.uint64(1) << turns.within.astype(np.uint64)
        is_first = np.zeros(len(turns), bool)
        is_first[np.unique(place * CHUNK_SAMPLES + turns.within, return_index=True)[1]] = True
        is_first &= (self.trained[place] | self.skipped[place]) & bit == 0
        for masks, chosen in ((self.trained, turns.kind == TRAINED), (self.skipped, turns.kind != TRAINED)):
            np.bitwise_or.at(masks, place[chosen & is_first], bit[chosen & is_first])
        return turns.where(is_first)


class Ledger:
    """Bits and counts of the chunks of a part; ``part`` p of n holds those that ``owner`` says."""

    def __init__(self, num_chunks: Sequence[int], part: int = 0, num_parts: int = 1) -> None:
        """``num_chunks``: of each data set."""
        self._num_chunks, self._part, self._num_parts = tuple(num_chunks), part, num_parts
        self.counts: dict[EpochKey, EpochCounts] = {}
        self.bits: dict[EpochKey, EpochBits] = {}
        """Of the epochs that are not closed."""

    def owner(self, events: Events) -> Integers:
        """The part that counts each event."""
        total = np.array(self._num_chunks, dtype=np.int64)[events.key >> 32]
        return events.chunk * self._num_parts // total

    def add(self, events: Events) -> None:
        """Count events, all of which this part owns."""
        for number in np.unique(events.key).tolist():
            self._add_to_epoch((number >> 32, number & 0xFFFFFFFF), events.where(events.key == number))

    def close(self, keys: Iterable[EpochKey]) -> None:
        """Let the bits of epochs go; whatever still comes of them is a repetition."""
        for key in keys:
            self.counts.setdefault(key, EpochCounts())
            self.bits.pop(key, None)

    def whole_epochs(self, epoch_masks: EpochMasks) -> list[EpochKey]:
        """Epochs of which every sample is trained or skipped."""
        return [
            key
            for key, bits in self.bits.items()
            if np.array_equal(bits.trained | bits.skipped, epoch_masks(key)[slice(*self._range(key[0]))])
        ]

    def merge(self, other: "Ledger") -> None:
        """Take another part in; this one must hold all chunks."""
        assert self._num_parts == 1, "only a whole ledger takes parts in"
        for key, counts in other.counts.items():
            self.counts.setdefault(key, EpochCounts()).add(counts)
        for key, bits in other.bits.items():
            own = self._open(key)
            place = slice(bits.first_chunk, bits.first_chunk + len(bits.trained))
            own.trained[place] |= bits.trained
            own.skipped[place] |= bits.skipped

    def inherit(self) -> None:
        """Make this the ledger of a run that goes on from here: nothing counts as its own, nothing may come again."""
        self.counts = {key: counts.as_inherited() for key, counts in self.counts.items()}

    def to_bytes(self, kept: KeptMasks) -> bytes:
        """A Parquet file, of a whole ledger."""
        rows = [
            {
                "dataset": key[0],
                "epoch": key[1],
                "counts": json.dumps(vars(counts)),
                **(_pack_bits(bits, kept(key[0])) if (bits := self.bits.get(key)) else {}),
            }
            for key, counts in sorted(self.counts.items())
        ]
        sink = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({"version": _VERSION}))
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
        return sink.getvalue()

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        num_chunks: Sequence[int],
        kept: KeptMasks,
        source: str,
        *,
        part: int = 0,
        num_parts: int = 1,
    ) -> "Ledger":
        """The opposite, or one part of it; also of what an earlier version stored. The counts go to the first part.

        Raises:
            CheckpointError: ``data`` is no ledger of these data sets; names ``source``.
        """
        ledger = cls(num_chunks, part, num_parts)
        try:
            version = pq.read_schema(pa.BufferReader(data)).metadata[b"version"]
            if version not in (_VERSION, _VERSION_OF_ALL):
                raise ValueError(f"version {version.decode()}")
            table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA)
            for number in range(len(table)):
                row = {name: table[name][number] for name in table.column_names}
                ledger._take_row(row, kept if version == _VERSION else None)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError) as error:
            raise CheckpointError(f"{source} is not a ledger of this run's data: {error}") from error
        return ledger

    def _take_row(self, row: Mapping[str, pa.Scalar], kept: KeptMasks | None) -> None:
        key = (row["dataset"].as_py(), row["epoch"].as_py())
        counts = json.loads(row["counts"].as_py())
        stored = EpochCounts(**{**counts, "skipped": Counter(counts["skipped"])})
        self.counts[key] = stored if self._part == 0 else EpochCounts()
        if row["whole"].is_valid:
            whole = np.frombuffer(row["whole"].as_buffer(), np.uint8)
            if len(whole) != -(-self._num_chunks[key[0]] // 8):
                raise ValueError(f"epoch {key[1]} of data set {key[0]} has another number of chunks")
            masks = np.full(self._num_chunks[key[0]], _ALL) if kept is None else kept(key[0])
            if kept is not None and row["kept"].as_py() != _digest(masks):
                raise ValueError(f"epoch {key[1]} of data set {key[0]} is of another selection")
            self.bits[key] = _unpack_bits(row, whole, masks, *self._range(key[0]))

    def _add_to_epoch(self, key: EpochKey, events: Events) -> None:
        is_new = key not in self.counts
        counts = self.counts.setdefault(key, EpochCounts())
        counts.substituted += int((events.kind == SUBSTITUTED).sum())
        counts.unannotated += int((events.kind == UNANNOTATED).sum())
        turns = events.where((events.kind == TRAINED) | events.is_skip | (events.kind == LEFT_OUT))
        if not is_new and key not in self.bits:
            counts.repeated += len(turns)
            return
        first_turns = self._open(key).take(turns)
        counts.trained += int((first_turns.kind == TRAINED).sum())
        counts.left_out += int((first_turns.kind == LEFT_OUT).sum())
        counts.repeated += len(turns) - len(first_turns)
        reasons = first_turns.kind[first_turns.is_skip]
        for reason, number in zip(*np.unique(reasons, return_counts=True), strict=True):
            counts.skipped[columns.SKIP_REASONS[reason]] += int(number)

    def _open(self, key: EpochKey) -> EpochBits:
        if key not in self.bits:
            first, stop = self._range(key[0])
            self.counts.setdefault(key, EpochCounts())
            self.bits[key] = EpochBits(first, np.zeros(stop - first, np.uint64), np.zeros(stop - first, np.uint64))
        return self.bits[key]

    def _range(self, dataset: int) -> tuple[int, int]:
        """Chunks c with c * num_parts // num_chunks == part."""
        total = self._num_chunks[dataset]
        first, stop = (-(-part * total // self._num_parts) for part in (self._part, self._part + 1))
        return first, stop


def _pack_bits(bits: EpochBits, kept: Masks) -> dict[str, Any]:
    """One bit for each chunk of which all that is kept is trained, and the masks of the few others that are not 0."""
    whole = (bits.trained == kept) & (kept != 0)
    trained_at, skipped_at = np.flatnonzero((bits.trained != 0) & ~whole), np.flatnonzero(bits.skipped)
    return {
        "kept": _digest(kept),
        "whole": np.packbits(whole).tobytes(),
        "trained_at": trained_at,
        "trained": bits.trained[trained_at],
        "skipped_at": skipped_at,
        "skipped": bits.skipped[skipped_at],
    }


def _unpack_bits(
    row: Mapping[str, pa.Scalar], whole: npt.NDArray[np.uint8], kept: Masks, first: int, stop: int
) -> EpochBits:
    """Those of chunks [first, stop): a rank among many has no room for those of all."""
    bits = np.unpackbits(whole[first // 8 : -(-stop // 8)])[first % 8 :][: stop - first].view(np.bool_)
    trained = np.where(bits, kept[first:stop], np.uint64(0))
    skipped = np.zeros(stop - first, np.uint64)
    for masks, name in ((trained, "trained"), (skipped, "skipped")):
        at = row[f"{name}_at"].values.to_numpy()
        own = slice(*np.searchsorted(at, (first, stop)))
        masks[at[own] - first] = row[name].values.to_numpy()[own]
    return EpochBits(first, trained, skipped)


def _digest(kept: Masks) -> str:
    return blake2b(np.ascontiguousarray(kept).data, digest_size=8).hexdigest()
