import base64
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.indexing import index_dataset
from orchestrator.data.parquet_columns import ColumnTypeError
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


def test_a_page_whose_checksum_does_not_hold_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    table = pa.table({"txt": [f"caption {number}" for number in range(9)]})
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False, compression="none")
    path.write_bytes(path.read_bytes().replace(b"caption 4", b"caption 5", 1))
    store = open_store(str(tmp_path))
    with pytest.raises(ShardDamagedError, match="CRC checksum"):
        read_chunk(store, index_dataset(store).shards[0], 0)


def test_text_that_is_not_utf8_comes_as_it_is(tmp_path: Path) -> None:
    bad = pa.array([b"\xff\xfe", b"fine"], pa.binary())
    for kind in (pa.string(), pa.large_string()):
        offsets = np.array([0, 2, 6], np.int32 if kind == pa.string() else np.int64)
        column = pa.Array.from_buffers(kind, 2, [None, pa.py_buffer(offsets), bad.buffers()[2]])
        pq.write_table(pa.table({"txt": column}), tmp_path / "a.parquet")
        store = open_store(str(tmp_path))
        samples = read_chunk(store, index_dataset(store).shards[0], 0)
        assert [sample.members["txt"] for sample in samples] == [b"\xff\xfe", b"fine"]


def not_utf8(kind: pa.DataType) -> pa.Array:
    """Two texts, of which the first is not UTF-8."""
    return pa.array([b"\xff\xfe", b"fine"], pa.binary()).view(kind)


@pytest.mark.parametrize(
    "column",
    [
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int32()), not_utf8(pa.string())),
        pa.array([b"\xff\xfe", b"fine", None], pa.binary_view()).view(pa.string_view()),
        pa.ExtensionArray.from_storage(pa.json_(), not_utf8(pa.string())),
        pa.array([{"bytes": b"\xff\xfe", "path": "1.jpg"}, {"bytes": b"fine"}, {"path": "3.jpg"}, None]),
    ],
    ids=["dictionary", "view", "json", "struct of an image"],
)
def test_values_come_out_of_what_is_around_them(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"txt": column}), tmp_path / "a.parquet")
    store = open_store(str(tmp_path))
    samples = read_chunk(store, index_dataset(store).shards[0], 0, {"txt"})
    assert [sample.members.get("txt") for sample in samples[:2]] == [b"\xff\xfe", b"fine"]
    assert all(sample.members == {} for sample in samples[2:])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([["a cat", "b"]]), "list<element: string>"),
        (pa.array([{"text": "a cat"}]), "struct<text: string>"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), "map<string, int32"),
        (pa.array([2**30], pa.date32()), "date32[day]"),
    ],
)
def test_a_column_that_is_no_member_is_refused_where_it_is_wanted(tmp_path: Path, column: pa.Array, kind: str) -> None:
    pq.write_table(pa.table({"jpg": [b"1"], "txt": column}), tmp_path / "a.parquet")
    store = open_store(str(tmp_path))
    (shard,) = index_dataset(store).shards
    assert read_chunk(store, shard, 0, {"jpg"})[0].members == {"jpg": b"1"}
    with pytest.raises(
        ColumnTypeError, match=rf"a\.parquet: column 'txt' is of type {re.escape(kind)}.*caption_fields"
    ):
        read_chunk(store, shard, 0, {"jpg", "txt"})


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(columns, ["txt", "txt"]), tmp_path / "a.parquet")
    store = open_store(str(tmp_path))
    with pytest.raises(ColumnTypeError, match="column 'txt' is there 2 times; wanted once"):
        read_chunk(store, index_dataset(store).shards[0], 0, {"txt"})


def write_odd_name(path: Path) -> None:
    pq.write_table(pa.table({"qqq": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"qqq", b"q\xffq"))


def write_odd_type(path: Path) -> None:
    """Arrow's own schema, kept within the file, tells of an integer of 4 bits."""
    pq.write_table(pa.table({"number": [1]}), path)
    noted = pq.read_metadata(path).metadata[b"ARROW:schema"]
    odd = base64.b64decode(noted).replace(bytes([64, 0, 0, 0]), bytes([4, 0, 0, 0]))
    path.write_bytes(path.read_bytes().replace(noted, base64.b64encode(odd)))


@pytest.mark.parametrize("write", [write_odd_name, write_odd_type])
def test_any_damage_of_a_footer_is_a_problem_of_its_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    pq.write_table(pa.table({"txt": ["a"]}), tmp_path / "a.parquet")
    write(tmp_path / "b.parquet")
    store = open_store(str(tmp_path))
    index = index_dataset(store)
    assert (index.num_samples, len(index.problems)) == (1, 1)
    assert index.problems[0].startswith("b.parquet: not a whole Parquet file")
    with pytest.raises(ShardDamagedError, match=r"b\.parquet, row 0"):
        read_chunk(store, replace(index.shards[1], num_samples=1, boundaries=(0, 1)), 0)


def test_large_row_groups_are_said(maker: Any) -> None:
    maker.write_parquet("a.parquet", range(1100), rows_per_group=2000)
    assert "a row group of 1100 rows" in index_dataset(open_store(str(maker.folder))).problems[0]


def test_files_without_rows_are_no_data_set(maker: Any) -> None:
    pq.write_table(pa.table({"txt": pa.array([], pa.string())}), maker.folder / "a.parquet")
    (maker.folder / "b.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"a\.parquet: it holds no rows; b\.parquet: not a whole Parquet file"):
        index_dataset(open_store(str(maker.folder)))
