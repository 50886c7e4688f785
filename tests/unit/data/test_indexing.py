"""What an index costs: shards that are known or counted elsewhere are not opened, and what is read is said."""

import gc
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data import indexing
from orchestrator.data.audit import SampleRules
from orchestrator.data.chunk_sample import Sampling
from orchestrator.data.index import DatasetIndex, load_index, save_index
from orchestrator.data.indexing import ReadMeter, execute_indexing, index_dataset, plan_indexing
from orchestrator.data.readers import read_chunk
from orchestrator.data.shard import ShardRow
from orchestrator.data.verify import add_chunk_tables, verify_dataset
from orchestrator.errors import DatasetError, OrchestratorError, ShardReadError, StorageAccessError
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import ObjectInfo, open_store


@dataclass(frozen=True)
class WatchedStore(LocalStore):
    """Keeps (path, bytes) of every read of a part."""

    read_unit_bytes = 2**13
    reads: list[tuple[str, int]] = field(default_factory=list, compare=False)

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        data = super().read_range(path, offset, length, etag)
        self.reads.append((path, len(data)))
        return data


@pytest.fixture
def store(maker: Any) -> WatchedStore:
    """Three tar shards, two of them with img2dataset's note."""
    for number, size in enumerate((70, 5, 130)):
        maker.write_tar(f"{number}.tar", range(100 * number, 100 * number + size))
    for number, size in enumerate((70, 5)):
        note(maker.folder, number, successes=size)
    return WatchedStore(str(maker.folder))


def note(folder: Path, number: int, **content: Any) -> None:
    (folder / f"{number}_stats.json").write_text(json.dumps({"count": 999, **content}))


def count(store: LocalStore, known: DatasetIndex | None = None) -> DatasetIndex:
    return execute_indexing(plan_indexing(store, known, counts_suffice=True))


def test_a_shard_that_is_counted_by_its_sidecar_is_not_opened(store: WatchedStore) -> None:
    plan = plan_indexing(store, counts_suffice=True)
    meter = ReadMeter()
    index = execute_indexing(plan, meter)
    assert {path for path, _ in store.reads} == {"2.tar"}
    assert [row.num_samples for row in index.shards] == [70, 5, 130]
    assert [row.has_chunk_table for row in index.shards] == [False, False, True]
    assert index.num_counted == 2
    assert meter.cost.requests == 1 + 2 + len(store.reads)  # a page of the listing, two notes
    assert meter.cost.requests <= plan.most.requests
    assert meter.cost.num_bytes <= plan.most.num_bytes
    save_index(store, index)
    assert load_index(store) == index
    with pytest.raises(DatasetError, match=rf"0\.tar has no chunk table.*data index --chunks {store.uri}"):
        read_chunk(store, index.shards[0], 0)
    assert index.digest == index_dataset(store).digest


def test_reading_on_opens_what_is_not_known_yet(store: WatchedStore, maker: Any) -> None:
    counted = count(store)
    store.reads.clear()
    whole = execute_indexing(plan_indexing(store, counted))
    assert {path for path, _ in store.reads} == {"0.tar", "1.tar"}
    store.reads.clear()
    assert execute_indexing(plan_indexing(store, whole)) == count(store, whole) == whole
    assert store.reads == []
    maker.write_tar("2.tar", range(400, 409))
    renewed = execute_indexing(plan_indexing(store, whole))
    assert {path for path, _ in store.reads} == {"2.tar"}
    assert [row.num_samples for row in renewed.shards] == [70, 5, 9]
    assert renewed == index_dataset(store)


@pytest.mark.parametrize("content", ['{"count": 70}', '{"successes": -1}', '{"successes": "70"}', "nothing"])
def test_a_sidecar_that_tells_nothing_has_the_headers_read(
    store: WatchedStore, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    Path(store.uri, "0_stats.json").write_text(content)
    index = count(store)
    assert [row.has_chunk_table for row in index.shards] == [True, False, True]
    assert index.num_samples == 205
    assert "0_stats.json" in caplog.text
    assert "the headers of 0.tar are read instead" in caplog.text


def test_parquet_shards_are_known_by_their_footers(maker: Any) -> None:
    maker.write_parquet("a.parquet", range(100))
    note(maker.folder, 0, successes=3)
    store = WatchedStore(str(maker.folder))
    plan = plan_indexing(store, counts_suffice=True)
    assert (plan.most.requests, plan.counted) == (3, {})
    assert execute_indexing(plan).num_counted == 0


def test_the_most_that_is_read_is_said_for_a_bucket(store: WatchedStore) -> None:
    @dataclass(frozen=True)
    class Bucket(LocalStore):
        read_unit_bytes = 2**16

    plan = plan_indexing(Bucket(store.uri))
    sizes = [info.size_bytes for info in plan.shards]
    assert plan.most.num_bytes == sum(sizes)
    assert plan.most.requests == 1 + sum(-(-size // 2**16) for size in sizes)
    meter = ReadMeter()
    execute_indexing(plan, meter)
    assert 0.9 * plan.most.num_bytes < meter.cost.num_bytes <= plan.most.num_bytes
    assert meter.cost.requests <= plan.most.requests + len(sizes)  # a header may lie on the border of two reads


@pytest.mark.parametrize("sampling", [None, Sampling(0.5, 0)])
def test_verifying_adds_the_chunk_tables_that_were_missing(maker: Any, sampling: Sampling | None) -> None:
    for number, size in enumerate((70, 5, 3)):
        maker.write_tar(f"{number}.tar", range(100 * number, 100 * number + size))
        note(maker.folder, number, successes=size - (number == 2))
    store = open_store(str(maker.folder))
    save_index(store, count(store))
    result = verify_dataset(store, SampleRules(), 1, sampling)
    assert result.counts["count_mismatch"] == 1
    said = add_chunk_tables(store, result)
    assert said == "2 chunk tables added to _orchestrator/index.parquet; 1 of 3 shards have none yet"
    index, whole = load_index(store), index_dataset(store)
    assert index is not None
    assert [row.boundaries for row in index.shards[:2]] == [row.boundaries for row in whole.shards[:2]]
    assert [row.num_samples for row in index.shards] == [70, 5, 2]
    again = verify_dataset(store, SampleRules(), 1, sampling)
    assert add_chunk_tables(store, again) == (
        "no chunk table was added to _orchestrator/index.parquet; 1 of 3 shards have none yet"
    )
    save_index(store, whole)
    assert add_chunk_tables(store, verify_dataset(store, SampleRules(), 1, sampling)) is None


@dataclass(frozen=True)
class ManyShards(LocalStore):
    """A listing of shards that nobody reads."""

    def list(self, prefix: str = "") -> tuple[ObjectInfo, ...]:
        return tuple(ObjectInfo(f"{number:05}.tar", 10, "1") for number in range(4000))


def count_rows() -> int:
    return sum(type(found) is ShardRow for found in gc.get_objects())


@pytest.mark.parametrize("are_known", [False, True])
def test_an_index_is_made_in_columns_as_its_rows_come(monkeypatch: pytest.MonkeyPatch, are_known: bool) -> None:
    """Rows of Python's numbers are 7 kB each: few of them are there at a time, be they read or known."""
    store = ManyShards("/many")
    monkeypatch.setattr(indexing, "_scan", lambda _, info, meter: ShardRow(info.path, 10, "1", 3, (0, 10)))
    known = execute_indexing(plan_indexing(store)) if are_known else None
    plan = plan_indexing(store, known)
    assert len(plan.kept) == 4000 * are_known
    seen, most, others = [], 0, count_rows()

    def watch(done: int, total: int) -> None:
        nonlocal most
        seen.append((done, total))
        if done % 1000 == 0:
            most = max(most, count_rows())

    index = execute_indexing(plan, progress=watch)
    assert seen == [(done, 4000) for done in range(1, 4001)]
    assert most - others < 1500
    assert known is None or index == known
    assert index.shards.paths == [info.path for info in store.list()]


def test_a_shard_that_cannot_be_read_ends_indexing_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def scan(store: LocalStore, info: ObjectInfo, meter: ReadMeter) -> ShardRow:
        begun.append(info.path)
        raise DatasetError(info.path)

    monkeypatch.setattr(indexing, "_scan", scan)
    with pytest.raises(DatasetError, match=r"00000\.tar"):
        index_dataset(ManyShards("/many"))
    assert len(begun) < 100


def test_what_reading_costs_at_most_is_summed_up_once(store: WatchedStore) -> None:
    """It is said at every shard."""
    plan = plan_indexing(store)
    assert plan.most is plan.most


@pytest.mark.parametrize("error", [StorageAccessError("credentials refused"), ShardReadError("failed after retries")])
def test_chunk_tables_that_cannot_be_kept_are_said(maker: Any, error: OrchestratorError) -> None:
    class UnwritableStore(LocalStore):
        def write_bytes(self, path: str, data: bytes) -> None:
            raise error

    maker.write_tar("0.tar", range(3))
    note(maker.folder, 0, successes=3)
    store = open_store(str(maker.folder))
    save_index(store, count(store))
    said = add_chunk_tables(UnwritableStore(store.uri), verify_dataset(store, SampleRules(), 1))
    assert said == f"1 chunk tables were read and not kept ({error})"
