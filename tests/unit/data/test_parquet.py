import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.indexing import index_dataset
from orchestrator.data.readers import read_chunk
from orchestrator.errors import DatasetError, ShardDamagedError
from orchestrator.storage.store import open_store


def test_chunks_cross_row_groups_and_bring_only_their_columns(maker: Any) -> None:
    maker.write_parquet("a.parquet", range(150), rows_per_group=50)
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    assert (index.format, index.num_samples, index.problems) == ("parquet", 150, [])
    (shard,) = index.shards
    chunks = [read_chunk(store, shard, chunk, ("txt", "png")) for chunk in range(shard.num_chunks)]
    assert [len(chunk) for chunk in chunks] == [64, 64, 22]
    samples = [sample for chunk in chunks for sample in chunk]
    assert [sample.index for sample in samples] == list(range(150))
    assert [sample.members["txt"] for sample in samples] == [f"caption {number}".encode() for number in range(150)]
    assert {tuple(sorted(sample.members)) for sample in samples} == {("png", "txt")}
    assert read_chunk(store, shard, 2)[0].members["other"] == b"128"


def test_nulls_are_missing_members(tmp_path: Path) -> None:
    pq.write_table(pa.table({"txt": ["a", None], "jpg": [b"1", b"2"]}), tmp_path / "a.parquet")
    store = open_store(str(tmp_path))
    samples = read_chunk(store, index_dataset(store).shards[0], 0)
    assert [sorted(sample.members) for sample in samples] == [["jpg", "txt"], ["jpg"]]


def test_truncated_file_is_a_problem_when_indexed_and_damage_when_read(maker: Any) -> None:
    path = maker.write_parquet("a.parquet", range(100))
    maker.write_parquet("b.parquet", range(10))
    store = open_store(str(maker.folder))
    whole = index_dataset(store)
    path.write_bytes(path.read_bytes()[:-100])
    index = index_dataset(store)
    assert index.num_samples == 10
    assert index.problems[0].startswith("a.parquet: not a whole Parquet file")
    with pytest.raises(ShardDamagedError, match=r"a\.parquet, row 64"):
        read_chunk(store, whole.shards[0], 1)
    path.unlink()
    with pytest.raises(ShardDamagedError, match=r"a\.parquet"):
        read_chunk(store, whole.shards[0], 0)


def test_fewer_rows_than_indexed_are_damage(maker: Any) -> None:
    maker.write_parquet("a.parquet", range(100))
    store = open_store(str(maker.folder))
    (shard,) = index_dataset(store).shards
    maker.write_parquet("a.parquet", range(70))
    with pytest.raises(ShardDamagedError, match=r"6 rows found, its index says 36"):
        read_chunk(store, replace(shard, etag=""), 1)


def test_a_file_written_again_since_it_was_indexed_is_refused(maker: Any) -> None:
    path = maker.write_parquet("a.parquet", range(100))
    store = open_store(str(maker.folder))
    (shard,) = index_dataset(store).shards
    assert len(read_chunk(store, shard, 1)) == 36
    os.utime(path, (1, 1))
    with pytest.raises(ShardDamagedError, match=r"a\.parquet, row 64: the shard was written again.*data index"):
        read_chunk(store, shard, 1)


def test_a_page_that_does_not_read_is_damage_and_no_failing_storage(maker: Any) -> None:
    path = maker.write_parquet("a.parquet", range(100), rows_per_group=50)
    store = open_store(str(maker.folder))
    (shard,) = index_dataset(store).shards
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(ShardDamagedError, match=r"a\.parquet, row 64"):
        read_chunk(store, replace(shard, etag=""), 1)


def test_text_that_is_not_utf8_comes_as_it_is(tmp_path: Path) -> None:
    bad = pa.array([b"\xff\xfe", b"fine"], pa.binary())
    for kind in (pa.string(), pa.large_string()):
        offsets = np.array([0, 2, 6], np.int32 if kind == pa.string() else np.int64)
        column = pa.Array.from_buffers(kind, 2, [None, pa.py_buffer(offsets), bad.buffers()[2]])
        pq.write_table(pa.table({"txt": column}), tmp_path / "a.parquet")
        store = open_store(str(tmp_path))
        samples = read_chunk(store, index_dataset(store).shards[0], 0)
        assert [sample.members["txt"] for sample in samples] == [b"\xff\xfe", b"fine"]


def test_large_row_groups_are_said(maker: Any) -> None:
    maker.write_parquet("a.parquet", range(1100), rows_per_group=2000)
    assert "a row group of 1100 rows" in index_dataset(open_store(str(maker.folder))).problems[0]


def test_files_without_rows_are_no_data_set(maker: Any) -> None:
    pq.write_table(pa.table({"txt": pa.array([], pa.string())}), maker.folder / "a.parquet")
    (maker.folder / "b.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a\.parquet: it holds no rows; b\.parquet: not a whole Parquet file"):
        index_dataset(open_store(str(maker.folder)))
