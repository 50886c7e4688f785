"""Every sample once per epoch, the same global batches at every world size, well mixed, from the seed alone."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.data.dataset_order import ROUNDS_PER_PASS, ChunkTable, DatasetOrder, unpack_visits
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.stream import plan_tasks
from orchestrator.spec.batches import Batches, BatchPhase
from orchestrator.spec.plan import StreamPlan
from orchestrator.spec.stream_reads import blocks_per_task

SIZES = (130, 64, 1, 0, 200, 77)
NUM_SAMPLES = sum(SIZES)
SLOTS = 24
CHANGING = Batches(
    global_size=16,
    phases=(BatchPhase(stop_sample=96, global_sizes=(32,)), BatchPhase(stop_sample=600, global_sizes=(16, 32, 64))),
)

Place = tuple[int, int, int, int]


def build_order(window: int = 96, seed: int = 0, kept: np.ndarray | None = None) -> SampleOrder:
    return SampleOrder(
        [DatasetOrder(ChunkTable(SIZES), seed, 0, kept)], WindowShuffle(window, seed, Batches(global_size=SLOTS))
    )


def build_mixture(weights: Sequence[int], window: int = 96) -> SampleOrder:
    datasets = [DatasetOrder(ChunkTable((100 + 7 * number, 64)), 0, number) for number in range(len(weights))]
    return SampleOrder(datasets, WindowShuffle(window, 0, Batches(global_size=SLOTS)), weights)


def locate(order: SampleOrder, start: int, stop: int) -> list[Place]:
    """(data set, epoch, shard, index) of the samples at positions [start, stop), by way of the chunk visits."""
    found = {}
    for visit in unpack_visits(order.window_visits(start, stop)):
        for offset, index in enumerate(visit.indices()):
            found[visit.start + offset] = (visit.dataset, visit.epoch, visit.shard, index)
    return [found[int(position)] for position in order.shuffle.positions(start, stop)]


@pytest.mark.parametrize("window", [1, 32, 100, 472, 1000])
def test_each_epoch_holds_every_sample_once(window: int) -> None:
    order = build_order(window, seed=3)
    num_epochs = 5
    rows = locate(order, 0, -(-num_epochs * NUM_SAMPLES // window) * window)
    expected = {(shard, index) for shard, size in enumerate(SIZES) for index in range(size)}
    for epoch in range(num_epochs):
        seen = [row[2:] for row in rows if row[1] == epoch]
        assert len(seen) == len(expected)
        assert set(seen) == expected


def test_any_slice_equals_the_whole() -> None:
    whole = locate(build_order(), 0, 960)
    for start, stop in [(0, 96), (5, 6), (90, 200), (471, 473), (500, 960)]:
        assert locate(build_order(), start, stop) == whole[start:stop]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    one, same, other = (build_order(seed=seed) for seed in (1, 1, 2))
    assert locate(one, 0, 472) == locate(same, 0, 472)
    assert locate(one, 0, 472) != locate(other, 0, 472)
    first = [row[2:] for row in locate(one, 0, 2 * NUM_SAMPLES) if row[1] == 0]
    second = [row[2:] for row in locate(one, 0, 2 * NUM_SAMPLES) if row[1] == 1]
    assert first != second[: len(first)]


def test_a_global_batch_is_the_same_samples_at_every_world_size_and_micro_batch() -> None:
    order = build_order()
    global_size = 48
    for world_size, micro_size in [(1, 48), (2, 24), (3, 8), (4, 6), (48, 1)]:
        layout = BlockLayout(Batches(global_size=global_size), micro_size, world_size)
        for step in (0, 1, 7):
            blocks = layout.blocks(range(step, step + 1), range(world_size))
            assert {layout.stamp(block)[0] for block in blocks} == {step}
            assert [layout.stamp(block)[1] for block in blocks] == [block % world_size for block in blocks]
            rows = [row for block in blocks for row in locate(order, *layout.positions(block))]
            assert rows == locate(order, step * global_size, (step + 1) * global_size)


@pytest.mark.parametrize(("world_size", "micro_size"), [(1, 8), (2, 8), (4, 4), (2, 2)])
def test_steps_of_several_sizes_take_the_order_as_it_is(world_size: int, micro_size: int) -> None:
    """Each sample once an epoch, also where another world size goes on in the middle of a phase."""
    order, stop = build_order(), CHANGING.steps_to(960)  # whole windows, two epochs and more
    layouts = BlockLayout(CHANGING, 16, 1), BlockLayout(CHANGING, micro_size, world_size)
    rows = []
    for layout, steps in zip(layouts, (range(9), range(9, stop)), strict=True):
        stamps = [layout.stamp(block) for block in layout.blocks(steps, range(layout.world_size))]
        assert stamps == [
            (step, rank, micro)
            for step in steps
            for micro in range(layout.num_micro(step))
            for rank in range(layout.world_size)
        ]
        own = [layout.blocks(steps, [rank]) for rank in range(layout.world_size)]
        assert {len(blocks) for blocks in own} == {sum(layout.num_micro(step) for step in steps)}
        blocks = sorted(block for of_rank in own for block in of_rank)
        rows += [row for block in blocks for row in locate(order, *layout.positions(block))]
    assert rows == locate(order, 0, CHANGING.start(stop))
    assert set(Counter(row for row in rows if row[1] < 2).values()) == {1}
    assert sum(row[1] < 2 for row in rows) == 2 * NUM_SAMPLES


def test_mixing_breaks_up_data_sorted_by_class() -> None:
    num_classes, per_class = 10, 2000
    table = ChunkTable([per_class] * num_classes)
    order = SampleOrder([DatasetOrder(table, 0)], WindowShuffle(2048, 0, Batches(global_size=256)))
    rows = locate(order, 0, 20_000 // 2048 * 2048)
    batches = np.array([shard for _, _, shard, _ in rows]).reshape(-1, 256)
    assert min(len(set(batch)) for batch in batches) >= 8
    stored = np.array([shard * per_class + index for _, _, shard, index in rows])
    ranks = np.argsort(np.argsort(stored))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.1
    # Each chunk gives as many samples to every batch of its window as to any other: eight batches, 64 samples.
    of_chunk = Counter((shard, index // 64, at // 256) for at, (_, _, shard, index) in enumerate(rows) if index < 1984)
    assert np.mean([number in (7, 8, 9) for number in of_chunk.values()]) > 0.85


@pytest.mark.parametrize(("world_size", "ranks_per_node"), [(8, 8), (8, 4), (16, 4), (4, 1)])
def test_a_chunk_is_read_by_one_task(world_size: int, ranks_per_node: int) -> None:
    """But for those that borders cut: of windows, and of what a node gets of them."""
    global_size, window = 1024, 4096
    layout = BlockLayout(Batches(global_size=global_size), 64, world_size)
    order = SampleOrder([DatasetOrder(ChunkTable([2000] * 40), 0)], WindowShuffle(window, 0, layout.batches))
    num_nodes = world_size // ranks_per_node
    plan = stream_plan(window, blocks_per_task(window, 64, num_nodes, 0))
    reads, visits = 0, set()
    steps = range(4 * window // global_size)
    for node in range(num_nodes):
        ranks = range(node * ranks_per_node, (node + 1) * ranks_per_node)
        for task in plan_tasks(order, layout, plan, steps, ranks):
            positions = np.concatenate([order.shuffle.positions(*layout.positions(block)) for block in task.blocks])
            at = np.searchsorted(task.visits[:, -2], positions.astype(np.uint64), side="right") - 1
            assert (task.visits[at, -1] > positions).all()  # each sample lies in a chunk that the task knows
            used = {tuple(row) for row in task.visits[np.unique(at), :4].tolist()}
            reads += len(used)
            visits |= used
    regions = 4 * num_nodes * (global_size // (64 * world_size))
    assert len(visits) <= reads <= len(visits) + 2 * regions + (num_nodes == 1) * len(visits)
    assert reads < 2.3 * len(visits)


def stream_plan(window: int, task_blocks: int) -> StreamPlan:
    return StreamPlan(
        block_bytes=1,
        blocks_per_task=task_blocks,
        tasks_per_execution=20_000,
        ingest_cpus=1,
        object_store_bytes=1,
        window=window,
        max_concepts_per_row=1,
    )


def test_a_substitute_is_looked_for_among_neighbours_that_a_task_knows() -> None:
    layout = BlockLayout(Batches(global_size=1024), 64, 4)
    shuffle = WindowShuffle(2048, 0, layout.batches)
    for block in range(64):
        reach = shuffle.reach(*layout.positions(block))
        for position in shuffle.positions(*layout.positions(block)).tolist():
            low, high = shuffle.neighbours(position)
            assert low <= position < high
            assert high - low == 512
            assert any(start <= low and high <= stop for start, stop in reach)


def test_a_window_mixes_data_sets_by_the_chunk() -> None:
    """No rank gets one data set's samples alone, though they follow one another in the window."""
    datasets = [DatasetOrder(ChunkTable([6400]), 0, number) for number in range(2)]
    order = SampleOrder(datasets, WindowShuffle(4096, 0, Batches(global_size=4096)), (1, 1))
    parts = np.array([row[0] for row in locate(order, 0, 8192)]).reshape(-1, 1024)
    assert (np.abs(parts.mean(1) - 0.5) < 0.3).all()


def test_a_selection_is_trained_on_and_nothing_else() -> None:
    masks = np.random.default_rng(0).integers(0, 2**64, ChunkTable(SIZES).num_chunks, dtype=np.uint64)
    kept = masks & DatasetOrder(ChunkTable(SIZES), 0).masks()
    kept[1] = 0
    order = build_order(kept=kept)
    expected = {
        (shard, index)
        for shard, size in enumerate(SIZES)
        for index in range(size)
        if int(kept[int(order.datasets[0].table.first_chunk[shard]) + index // 64]) >> index % 64 & 1
    }
    assert order.datasets[0].num_samples == len(expected)
    seen = Counter(row[2:] for row in locate(order, 0, 3 * 96 * 10) if row[1] == 0)
    assert set(seen) == expected
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (2, 3, 5), (164, 171, 178), (47, 1)])
def test_shares_are_exact_everywhere_and_every_epoch_is_whole(weights: tuple[int, ...]) -> None:
    order = build_mixture(weights)
    rows = locate(order, 0, 96 * 60)
    for window in range(1, 61):
        counts = Counter(row[0] for row in rows[: window * 96])
        for number, weight in enumerate(weights):
            assert abs(counts[number] - window * 96 * weight / sum(weights)) <= 1
    for number in range(len(weights)):
        of_first_epoch = [row[2:] for row in rows if row[:2] == (number, 0)]
        assert len(of_first_epoch) == len(set(of_first_epoch))
        if any(row[:2] == (number, 2) for row in rows):
            assert len(of_first_epoch) == order.datasets[number].num_samples


def test_what_is_planned_is_what_stands_at_the_positions() -> None:
    order = build_mixture((2, 3))
    for stop in (0, 7, 96, 500, 960, 1111):
        rows = Counter(row[:2] for row in locate(order, 0, stop)) if stop else Counter()
        planned = {key: int(np.bitwise_count(masks).sum()) for key, masks in order.planned(stop).items()}
        whole = {key: order.datasets[key[0]].num_samples for key in rows if key not in planned}
        assert {key: number for key, number in (planned | whole).items() if number} == rows


def test_chunks_of_an_epoch_are_found_among_many() -> None:
    order = DatasetOrder(ChunkTable([64 * 10_000 + 5]), 0)
    visits = unpack_visits(order.visits(0, order.num_samples))
    assert [visit.start for visit in visits[1:]] == [visit.stop for visit in visits[:-1]]
    for start in (0, 63, 4096 * 64 - 1, 4096 * 64, 4096 * 64 + 70, order.num_samples - 1):
        (visit,) = unpack_visits(order.visits(start, start + 1))
        assert any(whole.chunk == visit.chunk and whole.start <= start < whole.stop for whole in visits)


def build_replaced(sizes: Sequence[int], seed: int = 0, window: int = 96) -> SampleOrder:
    return SampleOrder(
        [DatasetOrder(ChunkTable(sizes), seed, with_replacement=True)],
        WindowShuffle(window, seed, Batches(global_size=SLOTS)),
    )


@pytest.mark.parametrize("sizes", [SIZES, (7,), (64,), (1000, 3, 500)])
def test_with_replacement_every_sample_is_drawn_as_often_as_any_other(sizes: tuple[int, ...]) -> None:
    order = build_replaced(sizes)
    dataset = order.datasets[0]
    num_passes = 100
    stop = num_passes * ROUNDS_PER_PASS * dataset.epoch_samples // 96 * 96
    rows = locate(order, 0, stop)
    assert len(set(rows)) == len(rows)  # nothing twice in one round, which is what the ledger counts by
    drawn = Counter(row[2:] for row in rows)
    mean = stop / sum(sizes)
    assert len(drawn) == sum(sizes)
    deviations = (np.array(list(drawn.values())) - mean) / np.sqrt(mean)
    assert np.abs(deviations).max() < 5.5  # of 2,000 samples, each Binomial with a standard deviation below 1
    assert np.abs(deviations.mean()) < 1e-6


def test_with_replacement_a_pass_leaves_out_what_single_draws_would() -> None:
    order = build_replaced([64 * 4000], window=4000)
    dataset = order.datasets[0]
    times = Counter(row[2:] for row in locate(order, 0, dataset.epoch_samples * ROUNDS_PER_PASS))
    left_out = 1 - len(times) / dataset.num_samples
    assert left_out == pytest.approx((1 - 1 / ROUNDS_PER_PASS) ** ROUNDS_PER_PASS, abs=0.02)
    assert left_out == pytest.approx(np.exp(-1), abs=0.035)


def test_with_replacement_any_slice_equals_the_whole_and_the_plan() -> None:
    whole = locate(build_replaced(SIZES), 0, 960)
    for start, stop in [(0, 96), (5, 6), (90, 200), (471, 473), (500, 960)]:
        assert locate(build_replaced(SIZES), start, stop) == whole[start:stop]
    assert locate(build_replaced(SIZES, seed=1), 0, 960) != whole
    order = build_replaced(SIZES)
    for stop in (7, 96, 500, 960):
        bits = {
            (0, row[1], int(order.datasets[0].table.first_chunk[row[2]]) + row[3] // 64, row[3] % 64)
            for row in whole[:stop]
        }
        by_epoch = order.planned(stop)
        planned = {
            (*key, int(chunk), bit)
            for key, masks in by_epoch.items()
            for chunk in np.flatnonzero(masks)
            for bit in range(64)
            if int(masks[chunk]) >> bit & 1
        }
        gone = {row for row in bits if row[:2] not in by_epoch}
        assert planned == bits - gone
        for key in {row[:2] for row in gone}:
            assert int(np.bitwise_count(order.epoch_masks(key)).sum()) == sum(row[:2] == key for row in gone)


def test_with_replacement_a_chunk_is_still_one_read() -> None:
    order = build_replaced([64 * 4000], window=2048)
    visits = unpack_visits(order.window_visits(0, 20 * 2048))
    assert len(visits) < 20 * (2048 / 64 + 4)
