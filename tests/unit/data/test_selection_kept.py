"""Selections that are kept: which ones are the same, and that what is found again is what was made."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.index import load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.selection import (
    SELECTIONS_FOLDER,
    OpenList,
    Selection,
    build_selection,
    ensure_selection,
    find_selection,
    load_selection,
    save_selection,
    selection_key,
)
from orchestrator.errors import DatasetError
from orchestrator.spec.selection import SelectionSpec
from orchestrator.storage.store import Store, open_store

SPEC = SelectionSpec(where={"other": {"min": 10}})


@pytest.fixture
def store(maker: Any) -> Store:
    """Shards with a column ``other`` that numbers the samples."""
    maker.write_parquet("a.parquet", range(70))
    maker.write_parquet("b.parquet", range(70, 80))
    return open_store(str(maker.folder))


@pytest.fixture
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where lists lie."""
    return tmp_path_factory.mktemp("lists")


@pytest.fixture
def open_list(lists: Path) -> OpenList:
    return lambda location: (open_store(str(lists)), location)


@pytest.fixture
def build(store: Store, open_list: OpenList) -> Callable[..., Selection]:
    return lambda **rules: build_selection(store, index_dataset(store), SelectionSpec(**rules), open_list)


def equal(one: Selection, other: Selection) -> bool:
    same = (one.index_digest, one.filtered, one.digest) == (other.index_digest, other.filtered, other.digest)
    return same and one.kept.dtype == other.kept.dtype and np.array_equal(one.kept, other.kept)


def test_a_saved_selection_comes_back_equal(store: Store, build: Callable[..., Selection]) -> None:
    selection = build(where={"other": {"min": 10}, "txt": {"one_of": [f"caption {n}" for n in range(75)]}})
    save_selection(store, selection)
    loaded = load_selection(store, selection.digest)
    assert equal(loaded, selection)
    assert equal(pickle.loads(pickle.dumps(loaded)), selection)
    assert (loaded.num_kept, loaded.filtered) == (65, {"where.other": 10, "where.txt": 5})
    assert index_dataset(store).num_samples == 80  # what is kept beside the shards is no shard


def test_the_digest_says_which_samples_and_not_why(lists: Path, build: Callable[..., Selection]) -> None:
    np.save(lists / "deny.npy", np.arange(10))
    selection = build(where={"other": {"min": 10}})
    denied = build(deny="deny.npy", list_by="other")
    assert (selection.filtered, denied.filtered) == ({"where.other": 10}, {"denied": 10})
    assert denied.digest == selection.digest
    assert build(where={"other": {"min": 11}}).digest != selection.digest
    assert replace(selection, index_digest="0" * 64).digest != selection.digest


def test_an_absent_damaged_or_exchanged_selection_is_named(store: Store, build: Callable[..., Selection]) -> None:
    one, other = build(where={"other": {"min": 10}}), build(where={"other": {"min": 11}})
    path = f"{SELECTIONS_FOLDER}/{one.digest}.parquet"
    with pytest.raises(DatasetError, match=f"{one.digest}.parquet is gone; planning the job again makes it again"):
        load_selection(store, one.digest)
    save_selection(store, one)
    data = store.read_bytes(path)
    for damaged in (b"", data[:-20], b"PAR1" + bytes(50) + b"PAR1"):
        store.write_bytes(path, damaged)
        with pytest.raises(DatasetError, match="is not a selection of this version"):
            load_selection(store, one.digest)
    save_selection(store, other)
    store.write_bytes(path, store.read_bytes(f"{SELECTIONS_FOLDER}/{other.digest}.parquet"))
    with pytest.raises(DatasetError, match=f"has digest {other.digest}: it is damaged"):
        load_selection(store, one.digest)


def test_a_selection_of_another_chunk_size_is_refused(store: Store, build: Callable[..., Selection]) -> None:
    selection = build(where={"other": {"min": 10}})
    save_selection(store, selection)
    path = f"{SELECTIONS_FOLDER}/{selection.digest}.parquet"
    table = pq.read_table(pa.BufferReader(store.read_bytes(path)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"chunk_samples": b"32"}), sink)
    store.write_bytes(path, sink.getvalue().to_pybytes())
    with pytest.raises(DatasetError, match="version 1, chunks of 32"):
        load_selection(store, selection.digest)


class Watch:
    """Whether shards were looked at."""

    def __init__(self) -> None:
        self.shards = 0

    def __call__(self, done: int, total: int) -> None:
        self.shards = done


def test_a_selection_is_made_once(store: Store, open_list: OpenList) -> None:
    index = index_dataset(store)
    first, again = Watch(), Watch()
    made = ensure_selection(store, index, SPEC, open_list, first)
    assert equal(ensure_selection(store, index, SPEC, open_list, again), made)
    assert (first.shards, again.shards) == (2, 0)
    found = find_selection(store, selection_key(store, index, SPEC, open_list))
    assert found is not None
    assert equal(found, made)


def test_rules_that_keep_the_same_samples_keep_their_own_counts(store: Store, open_list: OpenList) -> None:
    index = index_dataset(store)
    other = SelectionSpec(where={"txt": {"one_of": [f"caption {number}" for number in range(10, 80)]}})
    for _ in range(2):
        assert ensure_selection(store, index, SPEC, open_list).filtered == {"where.other": 10}
        assert ensure_selection(store, index, other, open_list).filtered == {"where.txt": 10}
    assert len(store.list(SELECTIONS_FOLDER)) == 3  # masks once, and what leads to them twice


@pytest.mark.parametrize("name", ["masks", "key"])
def test_what_is_damaged_or_gone_is_made_again(store: Store, open_list: OpenList, name: str) -> None:
    index = index_dataset(store)
    made = ensure_selection(store, index, SPEC, open_list)
    key = selection_key(store, index, SPEC, open_list)
    path = f"{SELECTIONS_FOLDER}/{made.digest}.parquet" if name == "masks" else f"{SELECTIONS_FOLDER}/{key}.json"
    for spoil in (lambda: store.write_bytes(path, b"{}"), lambda: store.delete(path)):
        spoil()
        watch = Watch()
        assert equal(ensure_selection(store, index, SPEC, open_list, watch), made)
        assert watch.shards == 2
        assert equal(load_selection(store, made.digest), made)


def test_a_list_that_changes_makes_another_selection(store: Store, lists: Path, open_list: OpenList) -> None:
    index = index_dataset(store)
    spec = SelectionSpec(deny="deny.npy", list_by="other")
    with pytest.raises(DatasetError, match=r"deny\.npy does not exist; correct allow or deny"):
        ensure_selection(store, index, spec, open_list)
    np.save(lists / "deny.npy", np.arange(10))
    first = ensure_selection(store, index, spec, open_list)
    np.save(lists / "deny.npy", np.arange(20))
    second = ensure_selection(store, index, spec, open_list)
    assert (first.num_kept, second.num_kept) == (70, 60)


def test_metadata_that_changes_makes_another_selection(maker: Any, open_list: OpenList) -> None:
    """The index's digest shows neither a table beside a tar nor a shard written again in its size."""
    maker.write_tar("a.tar", range(5))
    pq.write_table(pa.table({"key": [f"{n:05d}" for n in range(5)], "width": range(5)}), maker.folder / "a.parquet")
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    spec = SelectionSpec(where={"width": {"min": 3}})
    assert ensure_selection(store, index, spec, open_list).num_kept == 2
    pq.write_table(pa.table({"key": [f"{n:05d}" for n in range(5)], "width": [9] * 5}), maker.folder / "a.parquet")
    assert ensure_selection(store, index, spec, open_list).num_kept == 5

    (maker.folder / "a.parquet").unlink()
    maker.write_members("a.tar", [("1.json", b'{"width": 1}'), ("2.json", b'{"width": 5}')])
    index = index_dataset(store)
    bare = replace(index, shards=index.shards.without_etags())  # as in a copy of the data
    assert ensure_selection(store, bare, spec, open_list).kept.tolist() == [0b10]
    maker.write_members("a.tar", [("1.json", b'{"width": 7}'), ("2.json", b'{"width": 2}')])
    assert index_dataset(store).digest == index.digest
    assert ensure_selection(store, bare, spec, open_list).kept.tolist() == [0b01]


def test_a_copy_of_the_data_has_the_same_selection(store: Store, open_list: OpenList, lists: Path) -> None:
    save_index(store, index_dataset(store))
    shutil.copytree(store.uri, lists / "copy")
    copy = open_store(str(lists / "copy"))
    index, copied = index_dataset(store), load_index(copy)
    assert copied is not None
    made = ensure_selection(store, index, SPEC, open_list)
    assert ensure_selection(copy, copied, SPEC, open_list).digest == made.digest
