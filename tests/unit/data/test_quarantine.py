"""A sample with bad content does not reach a step: another stands in for it, and the quarantine names it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
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
from orchestrator.data.quarantine import QUARANTINE, read_quarantine, write_quarantine
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.errors import BadSampleLimitError
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store, open_store
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


def build_ledger(store: Store) -> RunLedger:
    """Of a run of one rank on one shard."""
    batches, dataset = Batches(global_size=NUM_SAMPLES), DatasetOrder(ChunkTable([NUM_SAMPLES]), 0)
    shared = SharedLedger([dataset.table], 0, 1, torch.device("cpu"), lambda _: dataset.masks())
    order = SampleOrder([dataset], WindowShuffle(NUM_SAMPLES, 0, batches))
    return RunLedger(shared, order, store, [["data/0.tar"]], batches)


def block_of(reasons: dict[int, str], epoch: int = 0) -> dict[str, np.ndarray]:
    """Provenance of the shard's samples, of which some were skipped."""
    block = {name: np.zeros(NUM_SAMPLES, np.int32) for name in (*columns.PROVENANCE, columns.SKIP_REASON)}
    block[columns.INDEX] += np.arange(NUM_SAMPLES, dtype=np.int32)
    block[columns.EPOCH] += epoch
    for row, reason in reasons.items():
        block[columns.SKIP_REASON][row] = columns.SKIP_REASONS.index(reason)
    return block | {name: block[name.removeprefix("skipped_")] for name in columns.SKIPPED}


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
    assert read_quarantine(store)["index"].to_pylist() == [1, 3]
    first.forget_after(0)
    assert store.list(QUARANTINE) == ()


def test_it_names_samples_of_every_data_set_by_shard_and_index(tmp_path: Path) -> None:
    """Held against a loop over the shards; the second file is of the version that wrote plain text."""
    store, random = open_store(str(tmp_path)), np.random.default_rng(0)
    sizes = [(130, 64, 0, 1, 200), (90, 30)]
    shards = [[f"s3://{name}/{number}.tar" for number in range(len(of))] for name, of in zip("ab", sizes, strict=True)]
    expected, events = [], []
    for _ in range(50):
        dataset, epoch = int(random.integers(2)), int(random.integers(3))
        shard = int(random.choice(np.flatnonzero(sizes[dataset])))
        index, kind = int(random.integers(sizes[dataset][shard])), int(random.integers(1, 4))
        chunk = sum(-(-size // 64) for size in sizes[dataset][:shard]) + index // 64
        events.append((dataset << 32 | epoch, chunk, index % 64, kind))
        reason = columns.SKIP_REASONS[kind]
        expected.append({"shard": shards[dataset][shard], "index": index, "reason": reason, "epoch": epoch})
    write_quarantine(store, 5, Events(*np.array(events).T), [ChunkTable(of) for of in sizes], shards)
    assert read_quarantine(store).to_pylist() == expected
    pq.write_table(pa.Table.from_pylist(expected), tmp_path / QUARANTINE / "step-00000009.parquet")
    assert read_quarantine(store).to_pylist() == 2 * expected


def test_a_caption_without_a_concept_is_counted_and_not_in_quarantine(tmp_path: Path) -> None:
    """``no_concept: resample`` skips a share of every step: the list would grow with the run, over samples as good."""
    store = open_store(str(tmp_path))
    ledger = build_ledger(store)
    ledger.add(block_of({1: columns.NO_CONCEPT, 3: "image_undecodable", 6: columns.NO_CONCEPT}), left_out=False)
    proof = ledger.prove(1)
    assert (proof.counts[0]["trained_once"], proof.counts[0]["skipped"]) == (5, 3)
    assert ledger.skipped() == {columns.NO_CONCEPT: 2, "image_undecodable": 1}
    assert read_quarantine(store)["index"].to_pylist() == [3]
    assert proof.notes[0].startswith("1 bad samples were skipped")


def test_too_many_bad_samples_end_the_run_with_what_and_where(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    ledger = build_ledger(store)
    data = SimpleNamespace(spec=ShardsSpec(kind="shards", train="x", max_skipped_fraction=0.02))
    ledger.add(block_of({0: "caption_missing"}), left_out=False)
    ledger.check_skipped(data, 1, NUM_SAMPLES, ledger.skipped())
    assert not store.list(QUARANTINE), "one of the first hundred says nothing"
    ledger.prove(1)
    ledger.add(block_of(dict.fromkeys((3, 4), "image_undecodable") | {5: columns.NO_CONCEPT}, epoch=1), left_out=False)
    with pytest.raises(BadSampleLimitError) as error:
        ledger.check_skipped(data, 2, 2 * NUM_SAMPLES, ledger.skipped())
    said, folder = str(error.value), f"{store.uri}/{QUARANTINE}"
    assert said.startswith("3 of 16 samples had to be skipped, more than data.max_skipped_fraction (2.00%): ")
    assert "caption_missing 1, image_undecodable 2; worst shards: data/0.tar 3; " in said
    assert f"the files below {folder} name each, the last of them {folder}/step-00000002.parquet; " in said
    assert f"'orchestrator ledger {store.uri} --quarantine LIST.parquet'" in said
    assert read_quarantine(store)["index"].to_pylist() == [0, 3, 4]
