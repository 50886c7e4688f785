"""A large index is decoded once a node; here every index counts as large."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data import node_index
from orchestrator.data.index import DatasetIndex, load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.node_index import ShardsSource, open_index
from orchestrator.data.readers import read_chunk
from orchestrator.data.shard import ShardRow
from orchestrator.errors import DatasetError, ShardDamagedError, StorageAccessError
from orchestrator.storage.store import Store, open_store

NUM_SHARDS, BOUNDARIES_PER_SHARD = 100, 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "data"))


@pytest.fixture
def index(store: Store) -> DatasetIndex:
    boundaries = np.random.default_rng(0).integers(1, 10**9, (NUM_SHARDS, BOUNDARIES_PER_SHARD)).cumsum(axis=1)
    rows = [
        ShardRow(f"{number:05d}.tar", int(of_shard[-1]), "etag", 64 * (BOUNDARIES_PER_SHARD - 1), tuple(of_shard), ())
        for number, of_shard in enumerate(boundaries.tolist())
    ]
    made = DatasetIndex.from_rows(store.uri, "webdataset", rows)
    save_index(store, made)
    return made


@pytest.fixture(autouse=True)
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_index, "_SHARED_FROM_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    node_index._kept.clear()


def files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("vl-orchestrator-*/*.arrow"))


def test_what_is_mapped_is_the_index_and_takes_no_memory_of_the_process(store: Store, index: DatasetIndex) -> None:
    open_index(ShardsSource.now(store, index.digest))
    node_index._kept.clear()
    before = pa.total_allocated_bytes()
    mapped = open_index(ShardsSource.now(store, index.digest))
    assert mapped.shards[7] == index.shards[7]
    assert pa.total_allocated_bytes() - before < 8 * NUM_SHARDS * BOUNDARIES_PER_SHARD / 10
    assert mapped == index


def test_another_process_finds_it_decoded(
    store: Store, index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import json, sys\n"
        "from orchestrator.data import node_index\n"
        "from orchestrator.storage.store import open_store\n"
        "node_index._SHARED_FROM_BYTES, node_index._load = 0, None\n"
        "index = node_index.open_index(node_index.ShardsSource.now(open_store(sys.argv[1]), sys.argv[2]))\n"
        "print(json.dumps(index.shards[3].boundaries))\n"
    )
    open_index(ShardsSource.now(store, index.digest))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    told = subprocess.check_output([sys.executable, "-c", code, store.uri, index.digest], env=environment)
    assert tuple(json.loads(told)) == index.shards[3].boundaries


def test_an_index_that_was_written_again_is_another_and_an_unused_one_goes(
    store: Store, index: DatasetIndex, tmp_path: Path
) -> None:
    open_index(ShardsSource.now(store, index.digest))
    [first] = files(tmp_path)
    os.utime(first, (1, 1))
    node_index._kept.clear()
    save_index(store, index)
    open_index(ShardsSource.now(store, index.digest))
    assert len(files(tmp_path)) == 1
    assert files(tmp_path) != [first]
    with pytest.raises(DatasetError, match="its index changed"):
        open_index(ShardsSource.now(store, "another digest"))


def test_a_process_that_lives_through_a_renewal_sees_the_new_versions_of_shards(
    maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many bytes and samples as before, so that the digest is the same."""
    monkeypatch.setattr(node_index, "_SHARED_FROM_BYTES", 2**24)
    shards = open_store(str(maker.folder))

    def write_and_index() -> DatasetIndex:
        maker.write_tar("0.tar", range(100))
        save_index(shards, index_dataset(shards))
        found = load_index(shards)
        assert found is not None
        return found

    first = write_and_index()
    assert len(read_chunk(shards, open_index(ShardsSource.now(shards, first.digest)).shards[0], 0)) == 64
    os.utime(maker.folder / "0.tar", (1, 1))
    with pytest.raises(ShardDamagedError, match="orchestrator data index"):
        read_chunk(shards, open_index(ShardsSource.now(shards, first.digest)).shards[0], 0)
    second = write_and_index()
    assert (second.digest, second == first) == (first.digest, False)
    opened = open_index(ShardsSource.now(shards, second.digest))
    assert opened == second
    assert len(read_chunk(shards, opened.shards[0], 0)) == 64


def test_a_folder_that_others_may_write_is_refused(store: Store, index: DatasetIndex, tmp_path: Path) -> None:
    (tmp_path / f"vl-orchestrator-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(StorageAccessError, match="not a folder of this user alone"):
        open_index(ShardsSource.now(store, index.digest))


def test_a_small_index_leaves_no_file(
    store: Store, index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_index, "_SHARED_FROM_BYTES", 2**24)
    assert open_index(ShardsSource.now(store, index.digest)) == index
    assert files(tmp_path) == []


def test_parquet_shards_stay_what_they_are(store: Store, tmp_path: Path) -> None:
    made: Any = DatasetIndex.from_rows(store.uri, "parquet", [ShardRow("a.parquet", 9, "e", 3, (0, 3), ())])
    save_index(store, made)
    assert open_index(ShardsSource.now(store, made.digest)) == made


def test_sources_that_are_read_in_turn_are_each_opened_once(
    tmp_path: Path, index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_index, "_SHARED_FROM_BYTES", 2**40)
    opened: list[str] = []

    def load(store: Store, *, verify: bool) -> DatasetIndex | None:
        opened.append(store.uri)
        return load_index(store, verify=verify)

    monkeypatch.setattr(node_index, "load_index", load)
    stores = [open_store(str(tmp_path / f"data-{number}")) for number in range(6)]
    sources = []
    for store in stores:
        save_index(store, index)
        sources.append(ShardsSource.now(store, index.digest))
    for source in (*sources, *sources, *reversed(sources)):
        open_index(source)
    assert opened == [store.uri for store in stores]

    renewed = ShardsSource(stores[0], index.digest, "another version of its file")
    assert open_index(renewed) is open_index(renewed)
    assert list(node_index._kept) == stores, "what was renewed is kept in place of the older one"
