"""A sample with a member that is no plain file, or whose name leads elsewhere, is not read and said by everyone."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator import columns
from orchestrator.data.audit import SampleRules
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.evaluation_set import read_evaluation_rows
from orchestrator.data.index import DatasetIndex, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.ledger_events import block_events
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.problems import Problem
from orchestrator.data.quarantine import write_quarantine
from orchestrator.data.readers import read_chunk
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.data.verify_shard import ShardTask, verify_shard
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store, open_store

NUM_SAMPLES, BAD, SIZE = 8, 5, 8
FORMATS = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
FAR = "elsewhere/" * 15 + "1.png"  # a link's target of more than a header holds


def other_kind(kind: bytes, target: str = "") -> Callable[[tarfile.TarInfo], bool]:
    """Make a member something else than a file; whether it still has content."""

    def change(info: tarfile.TarInfo) -> bool:
        info.type, info.linkname, info.size = kind, target, 0
        return False

    return change


def other_name(prefix: str) -> Callable[[tarfile.TarInfo], bool]:
    def change(info: tarfile.TarInfo) -> bool:
        info.name = prefix + info.name
        return True

    return change


REFUSED = {
    "hard_link": (other_kind(tarfile.LNKTYPE, "00000.png"), "a hard link"),
    "symbolic_link": (other_kind(tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
    "far_link": (other_kind(tarfile.SYMTYPE, FAR), "a symbolic link"),
    "character_device": (other_kind(tarfile.CHRTYPE), "a character device"),
    "block_device": (other_kind(tarfile.BLKTYPE), "a block device"),
    "fifo": (other_kind(tarfile.FIFOTYPE), "a fifo"),
    "sparse": (other_kind(tarfile.GNUTYPE_SPARSE), "a sparse file"),
    "unknown": (other_kind(b"Q"), "no plain file (type 'Q')"),
    "parent": (other_name("../"), "a name with '..'"),
    "inner_parent": (other_name("a/../../"), "a name with '..'"),
    "absolute": (other_name("/etc/"), "an absolute name"),
}


def write_tar(maker: Any, change: Callable[[tarfile.TarInfo], bool], form: int, ending: str = ".png") -> str:
    """Eight samples, of which one has a changed member; its name."""
    changed = ""
    with tarfile.open(maker.folder / "0.tar", "w", format=form) as tar:
        for number in range(NUM_SAMPLES):
            for name, data in maker.members(number):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                has_content = True
                if number == BAD and (name.endswith(ending) or "/" in changed):  # a name's folder is its sample's
                    has_content = change(info)
                    changed = changed or info.name
                tar.addfile(info, io.BytesIO(data) if has_content else None)
    return changed


def open_indexed(folder: Path) -> tuple[Store, DatasetIndex]:
    store = open_store(str(folder))
    index = index_dataset(store)
    save_index(store, index)
    return store, index


def verify(store: Store, index: DatasetIndex, chunks: tuple[int, ...] | None = None) -> tuple[Problem, ...]:
    info = store.stat("0.tar")
    assert info is not None
    return verify_shard(ShardTask(store, SampleRules(), info, index.shards[0], None, chunks)).problems


@pytest.mark.parametrize("form", FORMATS, ids=["gnu", "pax"])
@pytest.mark.parametrize("case", REFUSED)
def test_index_verify_and_reading_name_the_member(
    maker: Any, case: str, form: int, caplog: pytest.LogCaptureFixture
) -> None:
    change, reason = REFUSED[case]
    name = write_tar(maker, change, form)
    with caplog.at_level("WARNING", logger="orchestrator"):
        store, index = open_indexed(maker.folder)
    row = index.shards[0]
    assert row.num_samples == NUM_SAMPLES
    assert f"refused, and their samples skipped: '{name}': {reason}" in row.problems[0]
    assert f"'{name}': {reason}" in caplog.text

    key, said = name.removesuffix(".png"), f"{name!r}: {reason}"
    assert verify(store, index) == (Problem("0.tar", "member_refused", key, said),)
    assert verify(store, index, (0,))[1:] == (Problem("0.tar", "member_refused", key, said),)

    samples = read_chunk(store, row, 0)
    assert [sample.index for sample in samples if not sample.members] == [BAD]
    assert [sample.refused for sample in samples if sample.refused] == [said]


def test_what_belongs_to_no_sample_is_named_too(maker: Any) -> None:
    link = tarfile.TarInfo("latest")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = maker.write_tar("0.tar", range(3))
    with tarfile.open(path, "a") as tar:
        tar.addfile(link)
    store, index = open_indexed(maker.folder)
    assert index.shards[0].num_samples == 3
    assert "1 members are refused" in index.shards[0].problems[0]
    assert verify(store, index) == (Problem("0.tar", "member_refused", None, "'latest': a symbolic link"),)
    assert not any(sample.refused for sample in read_chunk(store, index.shards[0], 0))


def test_a_run_skips_the_sample_and_its_quarantine_names_it(maker: Any) -> None:
    write_tar(maker, REFUSED["symbolic_link"][0], tarfile.GNU_FORMAT, ".txt")
    store, index = open_indexed(maker.folder)
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
    assert rows == [{"shard": "shards/0.tar", "index": BAD, "reason": "member_refused", "epoch": 0}]


def test_evaluation_leaves_the_row_out_and_counts_it(maker: Any) -> None:
    write_tar(maker, REFUSED["hard_link"][0], tarfile.GNU_FORMAT, ".json")
    skipped = Counter[str]()
    rows = list(read_evaluation_rows(*open_indexed(maker.folder), SIZE, skipped=skipped))
    assert [row.index for row in rows] == [number for number in range(NUM_SAMPLES) if number != BAD]
    assert skipped == {"member_refused": 1}
