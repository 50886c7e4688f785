"""The ledger counts rows that were trained, whoever counts them, and says what the plan would have had."""

import numpy as np
import pytest

from orchestrator import columns
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder, unpack_visits
from orchestrator.data.ledger import EpochBits, EpochCounts, KeptMasks, Ledger
from orchestrator.data.ledger_events import Events, block_events
from orchestrator.data.ledger_report import LedgerRow, report_ledger, total_rows
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.errors import CheckpointError
from orchestrator.spec.batches import Batches, BatchPhase

SIZES = (130, 64, 1, 200, 77)
BLOCK = 16
CHANGING = Batches(global_size=48, phases=(BatchPhase(stop_sample=900, global_sizes=(48, 96, 144)),))


def build_order(kept: np.ndarray | None = None, with_replacement: bool = False) -> SampleOrder:
    tables = ChunkTable(SIZES), ChunkTable((90, 30))
    datasets = [DatasetOrder(tables[0], 1, 0, kept, with_replacement), DatasetOrder(tables[1], 1, 1)]
    return SampleOrder(datasets, WindowShuffle(96, 1, Batches(global_size=48)), weights=(3, 1))


def rows_at(order: SampleOrder, start: int, stop: int) -> np.ndarray:
    """(data set, epoch, shard, index) at positions [start, stop)."""
    found = {}
    for visit in unpack_visits(order.window_visits(start, stop)):
        for offset, index in enumerate(visit.indices()):
            found[visit.start + offset] = (visit.dataset, visit.epoch, visit.shard, index)
    return np.array([found[int(position)] for position in order.shuffle.positions(start, stop)])


def block_of(rows: np.ndarray, skipped: dict[int, tuple[tuple[int, ...], int]] | None = None) -> dict[str, np.ndarray]:
    """Provenance columns; ``skipped``: row to (what the plan had there, reason)."""
    block = {name: rows[:, at].astype(np.int32) for at, name in enumerate(columns.PROVENANCE)}
    block |= {name: np.full(len(rows), -1, np.int32) for name in columns.SKIPPED}
    block[columns.SKIP_REASON] = np.zeros(len(rows), np.int32)
    for row, (planned, reason) in (skipped or {}).items():
        for name, value in zip(columns.SKIPPED, planned, strict=True):
            block[name][row] = value
        block[columns.SKIP_REASON][row] = reason
    return block


def train(ledger: Ledger, order: SampleOrder, start: int, stop: int) -> None:
    first_chunks = [dataset.table.first_chunk for dataset in order.datasets]
    for position in range(start, stop, BLOCK):
        ledger.add(block_events(block_of(rows_at(order, position, position + BLOCK)), first_chunks))


def kept(order: SampleOrder) -> KeptMasks:
    return lambda number: order.datasets[number].masks()


def empty_ledger(order: SampleOrder) -> Ledger:
    return Ledger([dataset.table.num_chunks for dataset in order.datasets])


@pytest.mark.parametrize("stop", [0, 16, 96, 480, 640, 1600])
def test_a_run_that_nothing_happened_to_is_healthy(stop: int) -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, stop)
    rows = report_ledger(ledger, order, stop)
    assert all(row.is_healthy for row in rows)
    assert total_rows(rows)["trained_once"] == total_rows(rows)["expected"] == stop


@pytest.mark.parametrize("start", [16, 96, 480, 1600])
def test_a_run_that_starts_from_another_counts_its_own_rows_alone(start: int) -> None:
    order, stop = build_order(), start + 160
    trunk = empty_ledger(order)
    train(trunk, order, 0, start)
    trunk.close(trunk.whole_epochs(order.epoch_masks))
    stored = trunk.to_bytes(kept(order))
    num_chunks = [dataset.table.num_chunks for dataset in order.datasets]
    branch = Ledger.from_bytes(stored, num_chunks, kept(order), "trunk")
    branch.inherit()
    train(branch, order, start, start + 80)
    branch = Ledger.from_bytes(
        branch.to_bytes(kept(order)), num_chunks, kept(order), "branch"
    )  # it is resumed as any run
    train(branch, order, start + 80, stop)
    rows = report_ledger(branch, order, stop)
    totals = total_rows(rows)
    assert all(row.is_healthy for row in rows)
    assert (totals["trained_once"], totals["inherited"], totals["expected"]) == (160, start, stop)
    train(branch, order, 0, BLOCK)
    assert total_rows(report_ledger(branch, order, stop))["repeated"] == BLOCK


@pytest.mark.parametrize("stop", [16, 96, 480, 1600])
def test_what_was_drawn_again_with_replacement_is_no_repetition(stop: int) -> None:
    order = build_order(with_replacement=True)
    ledger = empty_ledger(order)
    train(ledger, order, 0, stop)
    for _ in range(2):
        rows = report_ledger(ledger, order, stop)
        assert all(row.is_healthy for row in rows)
        assert total_rows(rows)["trained_once"] == total_rows(rows)["expected"] == stop
        ledger.close(ledger.whole_epochs(order.epoch_masks))
    assert len(ledger.counts) - len(ledger.bits) == sum(
        order.taken(number, stop // 96) // dataset.epoch_samples for number, dataset in enumerate(order.datasets)
    )
    train(ledger, order, 0, BLOCK)
    assert total_rows(report_ledger(ledger, order, stop))["repeated"] == BLOCK


def test_what_is_filtered_is_told_once_a_pass_with_replacement() -> None:
    kept = build_order().datasets[0].masks() & np.uint64(0x0F0F0F0F0F0F0F0F)
    order = build_order(kept, with_replacement=True)
    ledger = empty_ledger(order)
    train(ledger, order, 0, 960)
    rows = [row for row in report_ledger(ledger, order, 960) if row.dataset == 0]
    assert all(row.is_healthy and row.trained_once + row.filtered == row.expected for row in rows)
    left_out = sum(SIZES) - order.datasets[0].num_samples
    assert [row.filtered for row in rows[:17]] == [left_out, *[0] * 15, left_out]


def test_whole_epochs_are_closed_and_stay_counted() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, 1600)
    before = report_ledger(ledger, order, 1600)
    closed = ledger.whole_epochs(order.epoch_masks)
    assert len(closed) >= 4
    ledger.close(closed)
    assert set(ledger.bits) == set(ledger.counts) - set(closed)
    assert report_ledger(ledger, order, 1600) == before
    train(ledger, order, 0, BLOCK)
    assert total_rows(report_ledger(ledger, order, 1600))["repeated"] == BLOCK


def test_what_was_lost_and_what_came_twice_is_counted() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, 320)
    train(ledger, order, 352, 640)  # 32 were lost
    train(ledger, order, 400, 416)  # 16 came again
    totals = total_rows(report_ledger(ledger, order, 640))
    assert (totals["missing"], totals["repeated"], totals["unplanned"]) == (32, 16, 0)
    assert totals["trained_once"] == 640 - 32


def test_rows_before_their_turn_are_unplanned() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, 112)
    totals = total_rows(report_ledger(ledger, order, 96))
    assert (totals["missing"], totals["unplanned"]) == (0, 16)


@pytest.mark.parametrize("stop", [0, 240, 480])
def test_an_epoch_that_is_whole_before_its_turn_is_unplanned(stop: int) -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, 640)
    open_rows = report_ledger(ledger, order, stop)
    assert sum(row.unplanned for row in open_rows) == 640 - stop
    ledger.close(ledger.whole_epochs(order.epoch_masks))
    assert len(ledger.bits) < len(ledger.counts)
    assert report_ledger(ledger, order, stop) == open_rows


def test_rows_of_a_step_that_was_left_out_are_counted_as_such_and_not_missing() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    first_chunks = [dataset.table.first_chunk for dataset in order.datasets]
    train(ledger, order, 0, 32)
    rows = rows_at(order, 32, 48)
    standing_in = rows.copy()
    standing_in[3] = rows[4]
    block = block_of(standing_in, {3: (tuple(rows[3]), 2)})
    ledger.add(block_events(block, first_chunks, left_out=True))
    train(ledger, order, 48, 64)
    report = report_ledger(
        Ledger.from_bytes(ledger.to_bytes(kept(order)), ledger._num_chunks, kept(order), "here"), order, 64
    )
    assert all(row.is_healthy for row in report)
    counts = {"expected": 64, "trained_once": 48, "left_out": 15, "skipped": 1, "substituted": 0}
    assert total_rows(report) | counts == total_rows(report)
    started_here = Ledger.from_bytes(ledger.to_bytes(kept(order)), ledger._num_chunks, kept(order), "here")
    started_here.inherit()
    totals = total_rows(report_ledger(started_here, order, 64))
    assert {name: number for name, number in totals.items() if number} == {"expected": 64, "inherited": 64}
    ledger.add(block_events(block, first_chunks, left_out=True))
    assert total_rows(report_ledger(ledger, order, 64))["repeated"] == 16


def test_a_skipped_sample_and_its_substitute_are_told_apart() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    rows = rows_at(order, 0, BLOCK)
    standing_in = rows.copy()
    standing_in[3] = rows[4]
    block = block_of(standing_in, {3: (tuple(rows[3]), 2)})
    ledger.add(block_events(block, [dataset.table.first_chunk for dataset in order.datasets]))
    report = report_ledger(ledger, order, BLOCK)
    totals = total_rows(report)
    assert all(row.is_healthy for row in report)
    assert totals | {"expected": 16, "trained_once": 15, "skipped": 1, "substituted": 1} == totals
    reasons = [row.skipped for row in report if row.skipped]
    assert reasons == [{columns.SKIP_REASONS[2]: 1}]


@pytest.mark.parametrize("in_one_call", [False, True])
@pytest.mark.parametrize(
    ("first", "later"),
    [("trained", "skipped"), ("trained", "left_out"), ("skipped", "trained"), ("left_out", "skipped")],
)
def test_a_sample_has_one_turn_whatever_becomes_of_it(first: str, later: str, in_one_call: bool) -> None:
    order = build_order()
    first_chunks = [dataset.table.first_chunk for dataset in order.datasets]
    rows = rows_at(order, 0, BLOCK)

    def turn(what: str) -> Events:
        skipped = {3: (tuple(rows[3]), 2)} if what == "skipped" else None
        return block_events(block_of(rows, skipped), first_chunks, left_out=what == "left_out")

    ledger = empty_ledger(order)
    stretches = [turn(first), turn(later)]
    for events in [Events.stack(stretches)] if in_one_call else stretches:
        ledger.add(events)
    report = report_ledger(ledger, order, BLOCK)
    totals = total_rows(report)
    assert totals["repeated"] == BLOCK
    assert not all(row.is_healthy for row in report)
    assert totals["trained_once"] + totals["left_out"] + totals["skipped"] == totals["expected"] == BLOCK
    assert totals["skipped"] == (first == "skipped")


def test_filtered_samples_are_expected_and_counted_apart() -> None:
    kept = build_order().datasets[0].masks() & np.uint64(0x0F0F0F0F0F0F0F0F)
    order = build_order(kept)
    assert order.datasets[0].num_samples < sum(SIZES)
    ledger = empty_ledger(order)
    stop = 960
    train(ledger, order, 0, stop)
    report = report_ledger(ledger, order, stop)
    first = report[0]
    assert (first.dataset, first.epoch, first.missing) == (0, 0, 0)
    assert first.filtered == sum(SIZES) - order.datasets[0].num_samples
    assert first.trained_once + first.filtered == first.expected == sum(SIZES)


@pytest.mark.parametrize("with_replacement", [False, True])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
def test_parts_add_up_to_the_whole(num_parts: int, with_replacement: bool) -> None:
    order = build_order(with_replacement=with_replacement)
    whole = empty_ledger(order)
    train(whole, order, 0, 640)
    parts = [Ledger([dataset.table.num_chunks for dataset in order.datasets], p, num_parts) for p in range(num_parts)]
    first_chunks = [dataset.table.first_chunk for dataset in order.datasets]
    for position in range(0, 640, BLOCK):
        events = block_events(block_of(rows_at(order, position, position + BLOCK)), first_chunks)
        for number, part in enumerate(parts):
            part.add(events.where(whole_owner(part, events) == number))
    merged = empty_ledger(order)
    for part in parts:
        merged.merge(part)
    assert report_ledger(merged, order, 640) == report_ledger(whole, order, 640)
    again, stored = empty_ledger(order), merged.to_bytes(kept(order))
    for number in range(num_parts):
        again.merge(read_part(stored, order, number, num_parts))
    assert report_ledger(again, order, 640) == report_ledger(whole, order, 640)


@pytest.mark.parametrize("batches", [Batches(global_size=48), CHANGING], ids=["equal", "changing"])
@pytest.mark.parametrize("with_replacement", [False, True])
def test_a_run_that_goes_on_at_other_world_sizes_trains_what_one_that_stays_trains(
    with_replacement: bool, batches: Batches
) -> None:
    """From stored ledgers, in blocks as each world size has them, until every data set is some epochs further."""
    order = build_order(with_replacement=with_replacement)
    first_chunks = [dataset.table.first_chunk for dataset in order.datasets]
    ledger = empty_ledger(order)
    for start, stop, world_size, micro_size in ((0, 7, 4, 12), (7, 8, 1, 48), (8, 29, 3, 8), (29, 40, 3, 16)):
        layout = BlockLayout(batches, micro_size, world_size)
        stored = ledger.to_bytes(kept(order))
        parts = [read_part(stored, order, rank, world_size) for rank in range(world_size)]
        for block in layout.blocks(range(start, stop), range(world_size)):
            events = block_events(block_of(rows_at(order, *layout.positions(block))), first_chunks)
            for rank, part in enumerate(parts):
                part.add(events.where(part.owner(events) == rank))
        merged = empty_ledger(order)
        for part in parts:
            merged.merge(part)
        merged.close(merged.whole_epochs(order.epoch_masks))
        ledger = read_part(merged.to_bytes(kept(order)), order)
        report = report_ledger(ledger, order, batches.start(stop))
        assert all(row.is_healthy for row in report)
        assert total_rows(report)["trained_once"] == total_rows(report)["expected"] == batches.start(stop)
    stays = empty_ledger(order)
    train(stays, order, 0, batches.start(40))
    stays.close(stays.whole_epochs(order.epoch_masks))
    assert stays.to_bytes(kept(order)) == ledger.to_bytes(kept(order))
    assert {key[0] for key in ledger.counts if key not in ledger.bits} == {0, 1}  # of both, whole epochs lie behind


def read_part(stored: bytes, order: SampleOrder, part: int = 0, num_parts: int = 1) -> Ledger:
    num_chunks = [dataset.table.num_chunks for dataset in order.datasets]
    return Ledger.from_bytes(stored, num_chunks, kept(order), "here", part=part, num_parts=num_parts)


def whole_owner(part: Ledger, events: object) -> np.ndarray:
    return part.owner(events)


def test_it_comes_back_from_storage() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, 1184)
    rows = rows_at(order, 1184, 1200)
    standing_in = rows.copy()
    standing_in[5] = rows[6]
    skipping = block_of(standing_in, {5: (tuple(rows[5]), 3)})
    ledger.add(block_events(skipping, [dataset.table.first_chunk for dataset in order.datasets]))
    ledger.close(ledger.whole_epochs(order.epoch_masks))
    num_chunks = [dataset.table.num_chunks for dataset in order.datasets]
    again = Ledger.from_bytes(ledger.to_bytes(kept(order)), num_chunks, kept(order), "here")
    assert report_ledger(again, order, 1200) == report_ledger(ledger, order, 1200)
    assert again.to_bytes(kept(order)) == ledger.to_bytes(kept(order))
    assert again.counts == ledger.counts
    assert sum(counts.skipped.total() for counts in again.counts.values()) == 1


def test_a_selection_costs_the_file_no_mask_a_chunk() -> None:
    table = ChunkTable([10_000] * 20)
    kept_samples = np.random.default_rng(0).random((table.num_chunks, 64)) < 0.3
    masks = np.packbits(kept_samples, axis=1, bitorder="little").view(np.uint64).reshape(-1)
    dataset = DatasetOrder(table, 0, kept=masks & DatasetOrder(table, 0).masks())
    order = SampleOrder([dataset], WindowShuffle(96, 0, Batches(global_size=48)))
    half = order.datasets[0].num_samples // 2 // 96 * 96
    ledger = Ledger([table.num_chunks])
    trained = order.planned(half)[0, 0]
    ledger.counts[0, 0] = EpochCounts(trained=half)
    ledger.bits[0, 0] = EpochBits(0, trained, np.zeros_like(trained))
    stored = ledger.to_bytes(kept(order))
    assert len(stored) < 2_500 + table.num_chunks // 8
    again = Ledger.from_bytes(stored, [table.num_chunks], kept(order), "here")
    assert np.array_equal(again.bits[0, 0].trained, trained)
    assert all(row.is_healthy for row in report_ledger(again, order, half))


def test_a_ledger_of_the_earlier_version_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    order = build_order(build_order().datasets[0].masks() & np.uint64(0x0F0F0F0F0F0F0F0F))
    ledger = empty_ledger(order)
    train(ledger, order, 0, 320)
    monkeypatch.setattr("orchestrator.data.ledger._VERSION", b"1")  # whole was what had all 64 samples
    stored = ledger.to_bytes(lambda number: np.full(ledger._num_chunks[number], 2**64 - 1, np.uint64))
    monkeypatch.undo()
    again = Ledger.from_bytes(stored, ledger._num_chunks, kept(order), "here")
    assert report_ledger(again, order, 320) == report_ledger(ledger, order, 320)
    monkeypatch.setattr("orchestrator.data.ledger._VERSION", b"3")
    stored = ledger.to_bytes(kept(order))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="version 3"):
        Ledger.from_bytes(stored, ledger._num_chunks, kept(order), "here")


def test_another_ledger_is_refused_by_name() -> None:
    order = build_order()
    ledger = empty_ledger(order)
    train(ledger, order, 0, 160)
    with pytest.raises(CheckpointError, match="step-3/ledger is not a ledger of this run's data"):
        Ledger.from_bytes(ledger.to_bytes(kept(order)), [99, 3], kept(order), "step-3/ledger")
    with pytest.raises(CheckpointError, match="of another selection"):
        Ledger.from_bytes(
            ledger.to_bytes(kept(order)), ledger._num_chunks, lambda number: order.datasets[number].masks() >> 1, ""
        )
    with pytest.raises(CheckpointError, match="not a ledger"):
        Ledger.from_bytes(b"PAR1 something else", [3], kept(order), "there")


def test_a_row_is_healthy_by_its_numbers() -> None:
    assert LedgerRow(0, 0, 10, 10, 0).is_healthy
    assert not LedgerRow(0, 0, 10, 9, 0, missing=1).is_healthy
