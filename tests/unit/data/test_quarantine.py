"""A sample with bad content does not reach a step: another stands in for it, and the quarantine names it."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.ledger_events import block_events
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.quarantine import write_quarantine
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import open_store

NUM_SAMPLES, BAD, SIZE = 8, 5, 8
FAULTS = {
    "member_refused": lambda name, data: (f"/{name}", data),
    "image_undecodable": lambda name, data: (name, data[:-30] if name.endswith(".png") else data),
    "caption_undecodable": lambda name, data: (name, b"\xff" if name.endswith(".txt") else data),
    "caption_broken": lambda name, data: (name, b"a red\0 cube" if name.endswith(".txt") else data),
}
"""What becomes of a member of the bad sample."""


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_sample_is_replaced_counted_and_named(maker: Any, reason: str) -> None:
    members = [(number, *member) for number in range(NUM_SAMPLES) for member in maker.members(number)]
    maker.write_members("0.tar", [FAULTS[reason](*rest) if number == BAD else rest for number, *rest in members])
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    save_index(store, index)
    table = ChunkTable(index.shards.num_samples)
    layout = BlockLayout(Batches(global_size=NUM_SAMPLES), NUM_SAMPLES, 1)
    order = SampleOrder([DatasetOrder(table, 0)], WindowShuffle(NUM_SAMPLES, 0, layout.batches))
    source, spec = ShardsSource.now(store, index.digest), ShardsSpec(kind="shards", train="x")
    format = BlockFormat((columns.IMAGE,), SIZE, 8, 4, None, None)
    reader = ShardsBlockReader((source,), spec, order.shuffle, layout, format)
    (packed,) = reader.read_blocks(BlockTask((0,), order.window_visits(0, NUM_SAMPLES)))
    block = unpack_block(packed, SIZE)
    assert BAD not in block[columns.INDEX]
    assert np.flatnonzero(block[columns.SKIP_REASON]).size == 1

    events = block_events(block, [table.first_chunk])
    uri = write_quarantine(store, 1, events.where(events.is_skip), [table], [["shards/0.tar"]])
    assert uri is not None
    rows = pq.read_table(uri.removeprefix("file://")).to_pylist()
    assert rows == [{"shard": "shards/0.tar", "index": BAD, "reason": reason, "epoch": 0}]
