"""A sample with a member that is no plain file, or whose name leads elsewhere, is not read and said by everyone."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.audit import SampleRules
from orchestrator.data.evaluation_set import read_evaluation_rows
from orchestrator.data.index import DatasetIndex, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.problems import Problem
from orchestrator.data.readers import read_chunk
from orchestrator.data.verify_shard import ShardTask, verify_shard
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


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_that_pax_headers_tell_of_are_refused(maker: Any, version: str) -> None:
    """As GNU tar writes them: plain files of another content, in later versions also of another name."""
    major, minor = version.split(".")

    def make_sparse(info: tarfile.TarInfo) -> bool:
        info.pax_headers = {"GNU.sparse.major": major, "GNU.sparse.minor": minor, "GNU.sparse.realsize": "999"}
        if version != "0.0":
            info.pax_headers["GNU.sparse.name"] = info.name
            info.name = f"./GNUSparseFile.1/{info.name}"
        return True

    write_tar(maker, make_sparse, tarfile.PAX_FORMAT)
    store, index = open_indexed(maker.folder)
    assert index.shards[0].num_samples == NUM_SAMPLES
    said = f"'{BAD:05d}.png': a sparse file"
    assert verify(store, index) == (Problem("0.tar", "member_refused", f"{BAD:05d}", said),)
    assert [sample.index for sample in read_chunk(store, index.shards[0], 0) if sample.refused == said] == [BAD]


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


def test_evaluation_leaves_the_row_out_and_counts_it(maker: Any) -> None:
    write_tar(maker, REFUSED["hard_link"][0], tarfile.GNU_FORMAT, ".json")
    skipped = Counter[str]()
    rows = list(read_evaluation_rows(*open_indexed(maker.folder), SIZE, skipped=skipped))
    assert [row.index for row in rows] == [number for number in range(NUM_SAMPLES) if number != BAD]
    assert skipped == {"member_refused": 1}
