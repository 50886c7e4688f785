"""What a read task holds: the samples of its own rows, whatever else is in the chunks that it reads."""

import weakref
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from orchestrator import columns
from orchestrator.data import shards_reader
from orchestrator.data.blocks import BlockFormat
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import ShardRow
from orchestrator.data.stream import plan_tasks
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import StreamPlan
from orchestrator.storage.store import Store, open_store

BATCH, WINDOW = 64, 512
BAD = {3, 100, 101, 300}


@pytest.fixture
def source(maker: Any) -> ShardsSource:
    """A window of 512 samples, a few of them without an image."""
    for shard in range(2):
        numbers = range(256 * shard, 256 * shard + 256)
        members = [(name, data) for number in numbers for name, data in maker.members(number)]
        maker.write_members(
            f"{shard}.tar",
            [(name, b"" if name in {f"{bad:05d}.png" for bad in BAD} else data) for name, data in members],
        )
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    save_index(store, index)
    return ShardsSource.now(store, index.digest)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[RawSample]]:
    """All samples that were read, as long as somebody holds them."""
    references: list[weakref.ref[RawSample]] = []

    def watched(store: Store, shard: ShardRow, chunk: int, fields: Collection[str]) -> list[RawSample]:
        samples = read_chunk(store, shard, chunk, fields)
        references.extend(map(weakref.ref, samples))
        return samples

    monkeypatch.setattr(shards_reader, "read_chunk", watched)
    return references


def read_window(source: ShardsSource, blocks_per_task: int) -> Iterator[pa.Table]:
    batches = Batches(global_size=BATCH)
    layout = BlockLayout(batches, BATCH, 1)
    order = SampleOrder([DatasetOrder(ChunkTable([256, 256]), 0)], WindowShuffle(WINDOW, 0, batches))
    plan = StreamPlan(
        block_bytes=1,
        blocks_per_task=blocks_per_task,
        tasks_per_execution=100,
        ingest_cpus=1,
        object_store_bytes=1,
        window=WINDOW,
        max_concepts_per_row=1,
    )
    spec = ShardsSpec(kind="shards", train="x", image_fields=("png",))
    reader = shards_reader.ShardsBlockReader(
        (source,), spec, order.shuffle, layout, BlockFormat((columns.IMAGE,), 8, 8, 4, None, None)
    )
    for task in plan_tasks(order, layout, plan, range(WINDOW // BATCH), (0,)):
        yield from reader.read_blocks(task)


@pytest.mark.parametrize("num_blocks", [1, 2, 8])
def test_a_task_holds_the_samples_of_its_rows(
    source: ShardsSource, read: list[weakref.ref[RawSample]], num_blocks: int
) -> None:
    blocks = read_window(source, num_blocks)
    next(blocks)
    assert len(read) >= WINDOW  # each block has samples of every chunk of the window
    held = sum(reference() is not None for reference in read)
    assert held <= num_blocks * BATCH + 64  # and the chunk of a substitute


def test_blocks_and_their_substitutes_are_the_same_however_many_a_task_makes(source: ShardsSource) -> None:
    whole = list(read_window(source, 8))
    skipped = pa.concat_tables(whole).filter(pa.compute.not_equal(pa.concat_tables(whole)[columns.SKIP_REASON], 0))
    assert len(skipped) == len(BAD)
    for num_blocks in (1, 3):
        assert list(read_window(source, num_blocks)) == whole


@pytest.mark.parametrize(("sample_bytes", "num_threads"), [(100_000, 8), (1_500_000, 2), (10_000_000, 1)])
def test_fewer_chunks_of_large_images_are_read_at_a_time(sample_bytes: int, num_threads: int) -> None:
    small, large = (SimpleNamespace(size_bytes=1000 * size, num_samples=1000) for size in (1, sample_bytes))
    assert shards_reader._num_threads([small, large]) == num_threads  # type: ignore[list-item]
