"""A sample with bad content does not reach a step: another stands in for it, and the quarantine names it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.ledger_events import Events, block_events
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.quarantine import QUARANTINE, write_quarantine
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import open_store
from orchestrator.training.run_ledger import RunLedger
from orchestrator.training.shared_ledger import SharedLedger

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


def test_a_stretch_that_is_done_again_is_told_once(tmp_path: Path) -> None:
    """Checkpoints come by the clock: the second attempt's stretch ends at another step, over the same samples."""
    store, table = open_store(str(tmp_path)), ChunkTable(np.array([NUM_SAMPLES]))

    def write(step: int, *indices: int) -> None:
        zeros, kind = np.zeros(len(indices), np.int64), columns.SKIP_REASONS.index("caption_broken")
        write_quarantine(store, step, Events(zeros, zeros, np.array(indices), zeros + kind), [table], [["0.tar"]])

    batches = Batches(global_size=NUM_SAMPLES)
    order = SampleOrder([DatasetOrder(table, 0)], WindowShuffle(NUM_SAMPLES, 0, batches))
    first, other = (
        RunLedger(
            SharedLedger([table], rank, 2, torch.device("cpu"), lambda: [None]),
            proof,
            store,
            [["0.tar"]],
            Batches(global_size=8),
        )
        for rank, proof in enumerate((order, None))
    )
    write(5, 1)
    write(9, 3, 4)  # its checkpoint never became whole
    other.forget_after(0)
    assert len(store.list(QUARANTINE)) == 2, "the first rank alone writes and removes"
    first.forget_after(5)
    write(7, 3)
    rows = [row for info in store.list(QUARANTINE) for row in pq.read_table(tmp_path / info.path).to_pylist()]
    assert [row["index"] for row in rows] == [1, 3]
    first.forget_after(0)
    assert store.list(QUARANTINE) == ()
