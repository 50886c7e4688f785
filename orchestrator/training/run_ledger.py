"""A run's ledger as its workers keep it: rows in, skipped samples counted, and at a checkpoint the proof.

Joins the ranks' shared ledger, the order it is held against, and the quarantine. Synthetic data has none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from orchestrator import columns
from orchestrator.collectives import from_rank_zero
from orchestrator.data.ledger_events import Events
from orchestrator.data.ledger_report import report_ledger, total_rows
from orchestrator.data.order import SampleOrder
from orchestrator.data.quarantine import QUARANTINE, drop_quarantine_after, read_quarantine, write_quarantine
from orchestrator.data.stream import StreamPlace
from orchestrator.errors import BadSampleLimitError
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import DataPlan, Plan
from orchestrator.spec.short_names import short_names
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking import metrics
from orchestrator.training.checkpoint_folders import LEDGER_FILE
from orchestrator.training.data_parts import chunk_tables, kept_masks, load_indexes, sample_order
from orchestrator.training.shared_ledger import SharedLedger

_SKIPS_BEFORE_LIMIT = 100  # a share of a handful of samples says nothing
_MOST_NAMED = 3  # shards in one message


@dataclass(frozen=True)
class LedgerProof:
    """What a checkpoint keeps of the ledger and what the run says of it; empty on all ranks but the first."""

    attachments: dict[str, bytes] = field(default_factory=dict)
    counts: list[dict[str, int]] = field(default_factory=list)
    """Of each data set, over its epochs (``ledger_report.total_rows``)."""
    notes: list[str] = field(default_factory=list)


def build_ledger(
    plan: Plan, place: StreamPlace, world_size: int, device: torch.device, store: Store
) -> tuple[SampleOrder | None, "RunLedger"]:
    """The order on ranks that plan a stream or prove the ledger; the ledger on all. ``store``: the run's folder."""
    indexes = load_indexes(plan)
    tables = chunk_tables(indexes)
    order = sample_order(plan, tables) if place.leads else None
    shared = SharedLedger(tables, place.rank, world_size, device, partial(kept_masks, plan, tables))
    roots = [open_store(source.shards.uri, plan.s3).uri for source in plan.data.sources]  # an index may be a copy
    shards = [[f"{root}/{path}" for path in index.shards.paths] for root, index in zip(roots, indexes, strict=True)]
    return order, RunLedger(shared, order if place.rank == 0 else None, store, shards, plan.batch)


class RunLedger:
    """One rank's view; all ranks call ``skipped``, ``check_skipped`` and ``prove`` in step.

    Args:
        shared: the ranks' ledger.
        order: on rank 0, what should be trained; None elsewhere.
        store: the run's folder, for the quarantine.
        shards: URIs of the shards of each data set.
        batches: which samples a step takes.
    """

    def __init__(
        self,
        shared: SharedLedger,
        order: SampleOrder | None,
        store: Store,
        shards: Sequence[Sequence[str]],
        batches: Batches,
    ) -> None:
        self._shared, self._order, self._store = shared, order, store
        self._shards, self._batches = shards, batches

    def add(self, block: Mapping[str, npt.NDArray[np.generic]], left_out: bool) -> None:
        """A block that came to a step, which was taken or left out."""
        if self._shards:
            self._shared.add(block, left_out)

    def skipped(self) -> dict[str, int]:
        """Skipped samples so far, by reason; a collective."""
        self._shared.exchange()
        return self._shared.skipped()

    def prove(self, step: int) -> LedgerProof:
        """The ledger after ``step`` steps, held against the order; a collective."""
        if not self._shards:
            return LedgerProof()
        merged = self._shared.merge(self._order.epoch_masks if self._order else None)
        bad = self._shared.take_bad()
        if merged is None or bad is None or self._order is None:
            return LedgerProof()
        datasets = self._order.datasets
        rows = report_ledger(merged, self._order, self._batches.start(step))
        quarantine = self._write_quarantine(step, bad, self._order)
        notes = [f"{len(bad):,} bad samples were skipped and replaced; see {quarantine}"] if quarantine else []
        notes += [f"the ledger is not healthy after step {step:,}: {row}" for row in rows if not row.is_healthy]
        counts = [total_rows(row for row in rows if row.dataset == number) for number in range(len(datasets))]
        stored = merged.to_bytes(lambda number: datasets[number].masks())
        return LedgerProof({LEDGER_FILE: stored}, counts, notes)

    def check_skipped(self, data: DataPlan, step: int, num_samples: int, reasons: Mapping[str, int]) -> None:
        """Hold what ``skipped`` said after ``step`` steps against the limit; a collective.

        Past it the quarantine is written up to this step: no checkpoint will come to do so.

        Raises:
            BadSampleLimitError: more than ``data.max_skipped_fraction`` of ``num_samples``; on all ranks.
        """
        limit = data.spec.max_skipped_fraction if isinstance(data.spec, ShardsSpec) else 1.0
        bad = {reason: number for reason, number in sorted(reasons.items()) if reason != columns.NO_CONCEPT}
        num_bad = sum(bad.values())
        if num_bad <= max(limit * num_samples, _SKIPS_BEFORE_LIMIT * limit):
            return
        where = from_rank_zero(self._leave_quarantine(step))
        raise BadSampleLimitError(
            f"{num_bad:,} of {num_samples:,} samples had to be skipped, more than data.max_skipped_fraction "
            f"({limit:.2%}): {_counted(bad)}; {where}; repair them, or leave them out by select.deny, of which "
            f"'orchestrator ledger {self._store.uri} --quarantine LIST.parquet' makes the list"
        )

    def _leave_quarantine(self, step: int) -> str:
        """Write what was skipped up to ``step``; says on rank 0 where all that was skipped so far lies."""
        bad = self._shared.take_bad()
        if bad is None or self._order is None:
            return ""
        written = self._write_quarantine(step, bad, self._order)
        by_shard = [tuple(row.values()) for row in read_quarantine(self._store)["shard"].value_counts().to_pylist()]
        worst = dict(sorted(by_shard, key=lambda one: one[1], reverse=True)[:_MOST_NAMED])
        last = f", the last of them {written}" if written else ""
        return f"worst shards: {_counted(worst)}; the files below {self._store.uri}/{QUARANTINE} name each{last}"

    def _write_quarantine(self, step: int, bad: Events, order: SampleOrder) -> str | None:
        tables = [dataset.table for dataset in order.datasets]
        return write_quarantine(self._store, step, bad, tables, self._shards)

    def forget_after(self, step: int) -> None:
        """Steps behind the last complete checkpoint are done again: what they had to skip is told then."""
        if self._order is not None:
            drop_quarantine_after(self._store, step)

    def restore(self, data: bytes, source: str, *, inherited: bool = False) -> None:
        """Take up a stored ledger, whatever number of ranks stored it: this run's, or that of what it starts from."""
        self._shared.restore(data, source, inherited=inherited)


def ledger_metrics(data: DataPlan, counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """The proof's counts under the names that MLflow shows."""
    names = short_names([source.shards.uri for source in data.sources])
    return {
        metrics.ledger_count(name, count): float(number)
        for name, of_dataset in zip(names, counts, strict=False)  # no counts but on rank 0
        for count, number in of_dataset.items()
    }


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())
