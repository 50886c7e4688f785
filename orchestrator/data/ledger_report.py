"""What a ledger proves: its rows held against the order that should have been trained."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np

from orchestrator.data.dataset_order import Masks
from orchestrator.data.ledger import EpochBits, EpochCounts, EpochKey, Ledger
from orchestrator.data.order import SampleOrder

_CHUNKS_AT_ONCE = 2**20  # of ten billion samples there are 150 times as many


@dataclass(frozen=True)
class LedgerRow:
    """One epoch of one data set, in samples.

    ``trained_once + inherited + left_out + skipped + filtered + missing == expected``.
    Healthy: nothing repeated, missing or unplanned.
    """

    dataset: int
    epoch: int
    expected: int
    """Planned so far, and those that are not in the selection."""
    trained_once: int
    repeated: int
    """Trained, skipped or left out after they had been any of the three."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Bad samples by reason."""
    substituted: int = 0
    """Rows that stood in for a skipped sample; their sample is also trained in its own place."""
    left_out: int = 0
    """Of steps that were not taken (a gradient that is not finite, a spike)."""
    filtered: int = 0
    """Not in the selection; told once a pass."""
    missing: int = 0
    """Planned so far, and neither trained, left out nor skipped."""
    unplanned: int = 0
    """Trained or skipped before their turn."""
    unannotated: int = 0
    """Rows trained without one of the annotations that the objective reads."""
    inherited: int = 0
    """Had their turn in the run that this one started from."""

    @property
    def is_healthy(self) -> bool:
        """Whether every sample had its turn once."""
        return self.repeated == self.missing == self.unplanned == 0


def report_ledger(ledger: Ledger, order: SampleOrder, stop: int) -> list[LedgerRow]:
    """One row an epoch that has begun, by data set.

    Args:
        ledger: all chunks.
        stop: position of the run behind the last trained sample: steps x global batch.
    """
    planned = order.planned(stop)
    begun = {key for number in range(len(order.datasets)) for key in _whole_epochs(order, number, planned, stop)}
    keys = begun | {key for key, masks in planned.items() if masks.any()} | ledger.counts.keys()
    return [_row(ledger, order, planned, key, key in begun) for key in sorted(keys)]


def total_rows(rows: Iterable[LedgerRow]) -> dict[str, int]:
    """Sums over epochs (and data sets): ``expected``, ``trained_once``, ..., skipped over all reasons."""
    totals = dict.fromkeys([item.name for item in fields(LedgerRow) if item.name not in ("dataset", "epoch")], 0)
    for row in rows:
        for name in totals:
            value = getattr(row, name)
            totals[name] += sum(value.values()) if isinstance(value, dict) else value
    return totals


def _whole_epochs(order: SampleOrder, number: int, planned: dict[EpochKey, Masks], stop: int) -> Iterable[EpochKey]:
    taken = order.taken(number, stop // order.shuffle.size)
    return (
        (number, epoch)
        for epoch in range(taken // order.datasets[number].epoch_samples)
        if (number, epoch) not in planned
    )


def _row(
    ledger: Ledger, order: SampleOrder, planned: dict[EpochKey, Masks], key: EpochKey, is_whole: bool
) -> LedgerRow:
    dataset = order.datasets[key[0]]
    counts = ledger.counts.get(key, EpochCounts())
    filtered = 0 if key[1] % dataset.epochs_per_pass else dataset.table.num_samples - dataset.num_samples
    num_planned, missing, unplanned = dataset.epoch_samples, 0, 0
    is_closed = key in ledger.counts and key not in ledger.bits  # it misses nothing, but may be ahead of its turn
    if not (is_closed and is_whole):
        masks = order.epoch_masks(key) if is_whole else planned.get(key, np.zeros(dataset.table.num_chunks, np.uint64))
        num_planned, missing, unplanned = _compare(masks, ledger.bits.get(key))
    if is_closed:
        missing, unplanned = 0, dataset.epoch_samples - num_planned
    return LedgerRow(
        dataset=key[0],
        epoch=key[1],
        expected=num_planned + filtered,
        trained_once=counts.trained,
        repeated=counts.repeated,
        skipped=dict(counts.skipped),
        substituted=counts.substituted,
        left_out=counts.left_out,
        filtered=filtered,
        missing=missing,
        unplanned=unplanned,
        unannotated=counts.unannotated,
        inherited=counts.inherited,
    )


def _compare(masks: Masks, bits: EpochBits | None) -> tuple[int, int, int]:
    """Samples of ``masks``, those of them that are not done, and those that are done beside them."""
    if bits is None:
        return _count(masks), _count(masks), 0
    planned = missing = unplanned = 0
    for start in range(0, len(masks), _CHUNKS_AT_ONCE):
        part = slice(start, start + _CHUNKS_AT_ONCE)
        done = bits.trained[part] | bits.skipped[part]
        planned += _count(masks[part])
        missing += _count(masks[part] & ~done)
        unplanned += _count(done & ~masks[part])
    return planned, missing, unplanned


def _count(masks: Masks) -> int:
    return int(np.bitwise_count(masks).sum(dtype=np.int64))
