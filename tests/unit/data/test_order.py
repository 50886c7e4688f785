"""Every sample once per epoch, the same global batches at every world size, well mixed, from the seed alone."""

import numpy as np
import pytest

from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle

SIZES = (130, 64, 1, 200, 77)


def locate(order: SampleOrder, start: int, stop: int) -> list[tuple[int, int, int]]:
    """(epoch, shard, index) of the samples at positions [start, stop), by way of the chunk visits."""
    by_position = {}
    for visit in order.window_visits(start, stop):
        for offset in range(visit.stop - visit.start):
            by_position[visit.start + offset] = (visit.epoch, visit.shard, visit.first + offset)
    return [by_position[int(position)] for position in order.shuffle.positions(start, stop)]


@pytest.mark.parametrize("window", [1, 32, 100, 472, 1000])
def test_each_epoch_holds_every_sample_once(window: int) -> None:
    order = SampleOrder(SIZES, chunk_size=64, shuffle=WindowShuffle(window, seed=3))
    num_epochs = 5
    stop = -(-num_epochs * order.num_samples // window) * window
    rows = locate(order, 0, stop)
    expected = {(shard, index) for shard, size in enumerate(SIZES) for index in range(size)}
    for epoch in range(num_epochs):
        seen = [row[1:] for row in rows if row[0] == epoch]
        assert len(seen) == len(expected)
        assert set(seen) == expected


def test_any_slice_equals_the_whole() -> None:
    order = SampleOrder(SIZES, 16, WindowShuffle(96, 0))
    whole = locate(order, 0, 960)
    for start, stop in [(0, 96), (5, 6), (90, 200), (471, 473), (500, 960)]:
        assert locate(SampleOrder(SIZES, 16, WindowShuffle(96, 0)), start, stop) == whole[start:stop]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    one, same, other = (SampleOrder(SIZES, 16, WindowShuffle(96, seed)) for seed in (1, 1, 2))
    assert locate(one, 0, 472) == locate(same, 0, 472)
    assert locate(one, 0, 472) != locate(other, 0, 472)
    first = [row[1:] for row in locate(one, 0, 2 * 472) if row[0] == 0]
    second = [row[1:] for row in locate(one, 0, 2 * 472) if row[0] == 1]
    assert first != second[: len(first)]


def test_a_global_batch_is_the_same_samples_at_every_world_size_and_micro_batch() -> None:
    order = SampleOrder(SIZES, 16, WindowShuffle(96, 0))
    global_size = 48
    for world_size, micro_size in [(1, 48), (2, 24), (3, 8), (4, 6), (48, 1)]:
        layout = BlockLayout(micro_size, global_size // world_size // micro_size, world_size)
        for step in (0, 1, 7):
            blocks = range(step * layout.blocks_per_step, (step + 1) * layout.blocks_per_step)
            assert {layout.stamp(block)[0] for block in blocks} == {step}
            assert [layout.stamp(block)[1] for block in blocks] == [block % world_size for block in blocks]
            rows = [row for block in blocks for row in locate(order, *layout.positions(block))]
            assert rows == locate(order, step * global_size, (step + 1) * global_size)


def test_mixing_breaks_up_data_sorted_by_class() -> None:
    num_classes, per_class = 10, 2000
    order = SampleOrder([per_class] * num_classes, 64, WindowShuffle(2048, 0))
    rows = locate(order, 0, 20_000 // 2048 * 2048)
    batches = np.array([shard for _, shard, _ in rows]).reshape(-1, 256)
    classes_per_batch = [len(set(batch)) for batch in batches]
    assert min(classes_per_batch) >= 8
    stored = np.array([shard * per_class + index for _, shard, index in rows])
    assert abs(np.corrcoef(stored, np.arange(len(stored)))[0, 1]) < 0.1
