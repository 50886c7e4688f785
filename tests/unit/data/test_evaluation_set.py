from collections import Counter
from typing import Any

import numpy as np
import pytest

from orchestrator.data.evaluation_set import read_evaluation_rows, stack_rows
from orchestrator.data.index import DatasetIndex
from orchestrator.data.indexing import index_dataset
from orchestrator.errors import EvaluationError
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import Store, open_store

Reads = list[tuple[str, int]]


@pytest.fixture
def opened(maker: Any) -> tuple[Store, DatasetIndex]:
    """150 rows over two shards."""
    maker.write_tar("0.tar", range(100))
    maker.write_tar("1.tar", range(100, 150))
    store = open_store(str(maker.folder))
    return store, index_dataset(store)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Where ranges are read from then on: paths and offsets."""
    found: Reads = []
    read_range = LocalStore.read_range

    def counted(store: LocalStore, path: str, offset: int, length: int, etag: str = "") -> bytes:
        found.append((path, offset))
        return read_range(store, path, offset, length, etag)

    monkeypatch.setattr(LocalStore, "read_range", counted)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 200])
def test_each_row_comes_exactly_once_over_all_ranks(opened: tuple[Store, DatasetIndex], world_size: int) -> None:
    ranks = [list(read_evaluation_rows(*opened, 8, rank, world_size)) for rank in range(world_size)]
    assert [row.index for rows in ranks for row in rows] == list(range(150))
    assert max(map(len, ranks)) == -(-150 // world_size)
    for rows in ranks:
        for row in rows:
            assert row.targets == {"parity": row.index % 2, "name": f"n{row.index}"}
            assert row.image.shape == (8, 8, 3)
            assert row.image[0, 0, 0] == row.index


def test_max_samples_takes_the_first_rows_of_the_set(opened: tuple[Store, DatasetIndex]) -> None:
    rows = [row.index for rank in range(3) for row in read_evaluation_rows(*opened, 8, rank, 3, max_samples=101)]
    assert sorted(rows) == list(range(101))


def test_rows_can_be_taken_in_even_distances(opened: tuple[Store, DatasetIndex]) -> None:
    ranks = [read_evaluation_rows(*opened, 8, rank, 2, max_samples=60, spread=True) for rank in range(2)]
    assert sorted(row.index for rows in ranks for row in rows) == [place * 150 // 60 for place in range(60)]


def test_only_chunks_with_an_own_row_are_read(opened: tuple[Store, DatasetIndex], reads: Reads) -> None:
    rows = list(read_evaluation_rows(*opened, 8, 70, 150))
    assert [row.index for row in rows] == [70]
    assert reads == [("0.tar", opened[1].shards[0].boundaries[1])]


@pytest.mark.parametrize(("world_size", "max_samples"), [(2, None), (3, None), (8, None), (8, 30)])
def test_each_chunk_is_read_about_once_over_all_ranks(
    opened: tuple[Store, DatasetIndex], reads: Reads, world_size: int, max_samples: int | None
) -> None:
    for rank in range(world_size):
        list(read_evaluation_rows(*opened, 8, rank, world_size, max_samples=max_samples, spread=True))
    assert len(set(reads)) == 3
    assert len(reads) <= 3 + world_size - 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_rows_in_turns_are_those_of_a_global_batch(opened: tuple[Store, DatasetIndex], world_size: int) -> None:
    length = 12 // world_size
    ranks = [read_evaluation_rows(*opened, 8, rank, world_size, run_length=length) for rank in range(world_size)]
    numbers = [[row.index for row in rows] for rows in ranks]
    batches = [[number for own in numbers for number in own[at : at + length]] for at in range(0, 48, length)]
    assert [number for batch in batches for number in batch] == list(range(len(batches) * 12))


def test_chosen_rows_come_by_their_numbers_from_their_chunks_alone(
    opened: tuple[Store, DatasetIndex], reads: Reads
) -> None:
    rows = list(read_evaluation_rows(*opened, 8, only={70, 71, 149, 150}))
    assert [row.index for row in rows] == [70, 71, 149]
    shards = opened[1].shards
    assert reads == [("0.tar", shards[0].boundaries[1]), ("1.tar", shards[1].boundaries[0])]


def test_batches_stack_rows_and_the_last_may_be_short(opened: tuple[Store, DatasetIndex]) -> None:
    batches = list(stack_rows(read_evaluation_rows(*opened, 8, 1, 2), 32, "here"))
    assert [len(batch.index) for batch in batches] == [32, 32, 11]
    assert batches[0].image.shape == (32, 8, 8, 3)
    assert (batches[0].image.dtype, batches[0].index.dtype) == (np.uint8, np.int64)
    assert batches[0].targets["parity"] == [1, 0] * 16
    assert batches[2].targets["name"][-1] == "n149"


def test_captions_are_read_when_asked_for(opened: tuple[Store, DatasetIndex]) -> None:
    rows = list(read_evaluation_rows(*opened, 8, caption_fields=("txt",), max_samples=2))
    assert [row.caption for row in rows] == ["caption 0", "caption 1"]
    assert next(read_evaluation_rows(*opened, 8)).caption == ""


def test_each_line_of_each_field_is_a_caption(maker: Any) -> None:
    members = [("a.png", maker.image()), ("a.txt", b"one\n\n two \n"), ("a.alt", b"three"), ("b.png", maker.image())]
    maker.write_members("0.tar", members)
    store = open_store(str(maker.folder))
    rows = list(read_evaluation_rows(store, index_dataset(store), 8, all_caption_fields=("txt", "alt")))
    assert [row.captions for row in rows] == [("one", "two", "three"), ()]


def test_bad_rows_are_left_out_and_counted(maker: Any, caplog: pytest.LogCaptureFixture) -> None:
    members = [maker.members(number) for number in range(5)]
    members[1] = [("00001.png", b"broken"), *members[1][1:]]
    members[2] = members[2][1:]
    members[3] = [members[3][0], members[3][2]]
    maker.write_members("0.tar", [member for sample in members for member in sample])
    store = open_store(str(maker.folder))
    skipped: Counter[str] = Counter()
    with caplog.at_level("WARNING", logger="orchestrator"):
        rows = list(read_evaluation_rows(store, index_dataset(store), 8, caption_fields=("txt",), skipped=skipped))
    assert [row.index for row in rows] == [0, 4]
    assert skipped == {"image_undecodable": 1, "image_missing": 1, "caption_missing": 1}
    assert "3 rows left out" in caplog.text


@pytest.mark.parametrize("content", [b"{", b"[1]", b'"text"', b'{"targets": 3}', b"\xff"])
def test_targets_that_are_no_object_are_named(maker: Any, content: bytes) -> None:
    maker.write_members("0.tar", [("a.png", maker.image()), ("a.json", content)])
    store = open_store(str(maker.folder))
    with pytest.raises(EvaluationError, match=r"row 0 \(a\).*\.json does not read as labels"):
        list(read_evaluation_rows(store, index_dataset(store), 8))


def test_plain_objects_serve_as_targets_and_only_labels_are_kept(maker: Any) -> None:
    content = b'{"class": 3, "name": "cat", "score": 0.5, "boxes": [[1, 2]], "tags": ["a", 2]}'
    maker.write_members("0.tar", [("a.png", maker.image()), ("a.json", content), ("b.png", maker.image())])
    store = open_store(str(maker.folder))
    first, second = read_evaluation_rows(store, index_dataset(store), 8)
    assert first.targets == {"class": 3, "name": "cat", "tags": ["a", 2]}
    assert second.targets == {}
    with pytest.raises(EvaluationError, match="row 1 carries targets"):
        list(stack_rows(read_evaluation_rows(store, index_dataset(store), 8), 4, store.uri))


def test_parquet_sets_read_the_same_way(maker: Any) -> None:
    maker.write_parquet("0.parquet", range(70))
    store = open_store(str(maker.folder))
    rows = list(read_evaluation_rows(store, index_dataset(store), 8, 1, 2, caption_fields=("txt",)))
    assert [(row.index, row.caption) for row in rows] == [(number, f"caption {number}") for number in range(35, 70)]
