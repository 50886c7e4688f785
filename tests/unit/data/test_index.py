import os
import pickle
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.index import INDEX_PATH, load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.readers import read_chunk
from orchestrator.errors import DatasetError
from orchestrator.storage.store import Store, open_store


@pytest.fixture
def store(maker: Any) -> Store:
    """Three shards, one of them in a folder, with what img2dataset lays beside them."""
    maker.write_tar("00000.tar", range(70))
    maker.write_tar("00001.tar", range(70, 75))
    maker.write_tar("more/00002.tar", range(75, 80))
    (maker.folder / "00000.parquet").write_bytes(b"metadata")
    (maker.folder / "00000_stats.json").write_bytes(b"{}")
    return open_store(str(maker.folder))


def test_saved_index_comes_back_equal(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    index = index_dataset(store, progress=lambda done, total: seen.append((done, total)))
    assert load_index(store) is None
    save_index(store, index)
    loaded = load_index(store)
    assert loaded == index
    assert pickle.loads(pickle.dumps(loaded)) == index
    assert [shard.path for shard in index.shards] == ["00000.tar", "00001.tar", "more/00002.tar"]
    assert (index.format, index.num_samples, index.problems) == ("webdataset", 80, [])
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_indexing_again_gives_the_same_index(store: Store) -> None:
    save_index(store, index_dataset(store))
    assert index_dataset(store) == load_index(store)


def test_digest_follows_the_data_and_not_its_place(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    index = index_dataset(store)
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(store.uri, copy)
    assert index_dataset(open_store(str(copy))).digest == index.digest
    (copy / "00001.tar").unlink()
    assert index_dataset(open_store(str(copy))).digest != index.digest


def test_the_layout_follows_the_order_of_the_samples_and_not_their_place(
    maker: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def layout_of(numbers: Iterable[int]) -> tuple[str, str | None]:
        maker.write_members("00000.tar", [(f"{number}.jpg", bytes(512 * number)) for number in numbers])
        index = index_dataset(open_store(str(maker.folder)))
        return index.digest, index.shards.layout_digest()

    before, copy = layout_of(range(200)), tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(maker.folder, copy)
    store = open_store(str(copy))
    save_index(store, index_dataset(store))
    assert (loaded := load_index(store)) is not None
    assert (loaded.digest, loaded.shards.layout_digest()) == before
    assert (without := load_index(store, chunk_tables=False)) is not None
    assert without.shards.layout_digest() is None
    again = layout_of(reversed(range(200)))
    assert again[0] == before[0], "paths, sizes and counts are the same"
    assert again[1] != before[1]


def test_index_holds_in_a_copy_of_the_data(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    save_index(store, index_dataset(store))
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(store.uri, copy)
    for path in copy.rglob("*.tar"):
        os.utime(path, (1, 1))
    there = load_index(open_store(str(copy)))
    assert there is not None
    assert {shard.etag for shard in there.shards} == {""}  # those of the original would refuse every read
    assert len(read_chunk(open_store(str(copy)), there.shards[0], 1)) == 6


def test_indexes_of_data_sets_below_are_no_shards(maker: Any) -> None:
    for name in ("a", "b/c"):
        (maker.folder / name).mkdir(parents=True)
        maker.write_parquet(f"{name}/0.parquet", range(3))
        below = open_store(str(maker.folder / name))
        save_index(below, index_dataset(below))
    index = index_dataset(open_store(str(maker.folder)))
    assert (index.num_samples, index.shards.paths) == (6, ["a/0.parquet", "b/c/0.parquet"])


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_shard_whose_name_is_not_utf8_is_refused_by_name(maker: Any, ending: str) -> None:
    (maker.write_tar if ending == "tar" else maker.write_parquet)(f"a.{ending}", range(3))
    path = os.fsencode(maker.folder)
    os.rename(os.path.join(path, f"a.{ending}".encode()), os.path.join(path, f"caf\xe9.{ending}".encode("latin-1")))
    with pytest.raises(DatasetError, match=rf"must be UTF-8, and is not: '.*/caf\\udce9\.{ending}'; rename it"):
        index_dataset(open_store(str(maker.folder)))


@pytest.mark.parametrize("change", ["gone", "new", "longer", "written again"])
def test_stale_index_names_the_shard_and_the_command(store: Store, maker: Any, change: str) -> None:
    save_index(store, index_dataset(store))
    path = Path(store.uri, "00001.tar")
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "new":
        path = maker.write_tar("00003.tar", range(3))
    elif change == "longer":
        path.write_bytes(content + bytes(512))
    else:
        path.write_bytes(content)
        os.utime(path, (1, 1))
    message = rf"{path.name} .*run: orchestrator data index {store.uri}"
    with pytest.raises(DatasetError, match=message):
        load_index(store)
    assert load_index(store, verify=False) is not None


def test_damaged_index_is_named(store: Store) -> None:
    index = index_dataset(store)
    save_index(store, index)
    for content in (b"", b"nonsense", store.read_bytes(INDEX_PATH)[:-50], store.read_bytes("00000.parquet")):
        store.write_bytes(INDEX_PATH, content)
        with pytest.raises(DatasetError, match=r"index\.parquet is not an index.*orchestrator data index"):
            load_index(store)


def test_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"{tmp_path} holds no shards: looked for \*\.tar.*nothing at all"):
        index_dataset(open_store(str(tmp_path)))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DatasetError, match=r"found 1 of \.jpg"):
        index_dataset(open_store(str(tmp_path)))


def test_shards_without_a_whole_sample_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with pytest.raises(DatasetError, match=r"no whole sample in them: a\.tar: the file is empty"):
        index_dataset(open_store(str(tmp_path)))


def test_a_damaged_shard_is_listed_and_logged_and_the_others_are_used(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(store.uri, "00001.tar")
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level("WARNING", logger="orchestrator"):
        index = index_dataset(store)
    assert index.num_samples == 75
    assert index.problems[0].startswith("00001.tar: cut off inside")
    assert "00001.tar: cut off inside" in caplog.text
    save_index(store, index)
    assert load_index(store) == index
