"""Selections of samples: the masks are what a plain loop over the metadata says, wherever the metadata lies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.index import DatasetIndex
from orchestrator.data.indexing import index_dataset
from orchestrator.data.metadata import read_metadata
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample_list import UID
from orchestrator.data.selection import Selection, build_selection
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.errors import DatasetError, ShardDamagedError
from orchestrator.spec.selection import SelectionSpec
from orchestrator.storage.store import Store, open_store

NUM_SAMPLES = 150
SHARDS = {"00000.tar": range(70), "deep/00001.tar": range(70, 71), "00002.tar": range(71, NUM_SAMPLES)}

Row = dict[str, Any]


def note(number: int) -> Row:
    """What img2dataset notes of a sample."""
    return {
        "uid": f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}",
        "similarity": None if number % 10 == 9 else number % 7 / 7,
        "width": 100 + number,
        "language": ("en", "de", None)[number % 3],
    }


@pytest.fixture(params=["sidecar", "json", "parquet"])
def source(request: pytest.FixtureRequest) -> str:
    """Where the metadata lies."""
    return request.param


def write_data(maker: Any, source: str) -> tuple[Store, DatasetIndex]:
    """The same samples with their metadata in another place."""
    for name, numbers in SHARDS.items():
        path = maker.folder / name
        path.parent.mkdir(exist_ok=True)
        if source == "parquet":
            rows = [{"key": f"{number:05d}", "txt": "a", **note(number)} for number in numbers]
            pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"), row_group_size=50)
        elif source == "json":
            members = [(f"{number:05d}.json", json.dumps(note(number)).encode()) for number in numbers]
            maker.write_members(name, members)
        else:
            maker.write_tar(name, numbers)
            write_sidecar(path.with_suffix(".parquet"), numbers)
    store = open_store(str(maker.folder))
    return store, index_dataset(store)


def write_sidecar(path: Path, numbers: range) -> None:
    """Rows in another order than the tar's, among them samples that were tried and have no image."""
    rows = [{"key": f"{number:05d}", "status": "success", **note(number)} for number in reversed(numbers)]
    failed = {"key": "99999", "status": "failed_to_download", **note(0)}
    pq.write_table(pa.Table.from_pylist([failed, *rows, failed]), path)


def open_list(maker: Any) -> Callable[[str], tuple[Store, str]]:
    """Lists lie in a folder of their own."""
    return lambda location: (open_store(str(maker.folder / "lists")), location)


def write_list(maker: Any, values: Any, name: str = "list.npy") -> None:
    (maker.folder / "lists").mkdir(exist_ok=True)
    np.save(maker.folder / "lists" / name, values)


def as_uids(numbers: list[int]) -> Any:
    uids = [note(number)["uid"] for number in numbers]
    return np.sort(np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], UID))


def select(maker: Any, data: tuple[Store, DatasetIndex], **rules: Any) -> Selection:
    return build_selection(*data, SelectionSpec(**rules), open_list(maker))


def kept_samples(index: DatasetIndex, selection: Selection) -> list[int]:
    """Numbers of the kept samples, which the shards hold in order of their path."""
    by_path = {Path(name).with_suffix("").as_posix(): list(numbers) for name, numbers in SHARDS.items()}
    kept, chunk = [], 0
    for shard in index.shards:
        numbers = by_path[Path(shard.path).with_suffix("").as_posix()]
        for within in range(shard.num_chunks):
            mask = int(selection.kept[chunk])
            kept += [numbers[sample] for sample in range(*shard.chunk_range(within)) if mask >> sample % 64 & 1]
            chunk += 1
    assert chunk == len(selection.kept)
    assert len(kept) == selection.num_kept == sum(mask.bit_count() for mask in selection.kept.tolist())
    return sorted(kept)


def test_masks_and_counts_are_those_of_a_plain_loop(maker: Any, source: str) -> None:
    data = write_data(maker, source)
    allowed = [*range(0, NUM_SAMPLES, 2), 5, 7]
    write_list(maker, as_uids(allowed), "allow.npy")
    write_list(maker, np.array([note(number)["uid"] for number in range(40)]), "deny.npy")
    where = {
        "similarity": {"min": 0.25, "keep_missing": True},
        "language": {"one_of": ["en", "fr"]},
        "width": {"max": 230},
    }
    selection = select(maker, data, allow="allow.npy", deny="deny.npy", list_by="uid", where=where)
    expected: list[int] = []
    filtered = dict.fromkeys(("not_allowed", "denied", "where.similarity", "where.language", "where.width"), 0)
    for number in range(NUM_SAMPLES):
        row = note(number)
        for reason, holds in zip(
            filtered,
            (
                number in allowed,
                number >= 40,
                row["similarity"] is None or row["similarity"] >= 0.25,
                row["language"] == "en",
                row["width"] <= 230,
            ),
            strict=True,
        ):
            if not holds:
                filtered[reason] += 1
                break
        else:
            expected.append(number)
    assert kept_samples(data[1], selection) == expected
    assert selection.filtered == filtered
    assert min(filtered.values()) > 0
    assert sum(filtered.values()) + len(expected) == NUM_SAMPLES


def test_samples_are_listed_by_key(maker: Any, source: str) -> None:
    data = write_data(maker, source)
    write_list(maker, np.array(["00003", "00070", "00149", "nothing"]))
    assert kept_samples(data[1], select(maker, data, allow="list.npy")) == [3, 70, 149]
    denied = select(maker, data, deny="list.npy")
    assert set(range(NUM_SAMPLES)) - set(kept_samples(data[1], denied)) == {3, 70, 149}
    assert denied.filtered == {"denied": 3}


def test_bits_stand_for_the_samples_that_a_reader_finds(maker: Any) -> None:
    store, index = write_data(maker, "sidecar")
    assert CHUNK_SAMPLES == 64  # bits of a mask
    write_list(maker, np.array(["00063", "00064", "00069"]))
    selection = select(maker, (store, index), allow="list.npy")
    assert selection.kept.tolist() == [1 << 63, 1 | 1 << 5, 0, 0, 0]
    samples = read_chunk(store, index.shards[0], 1)
    assert [sample.key for sample in samples if int(selection.kept[1]) >> sample.index % 64 & 1] == ["00064", "00069"]


def test_null_uids_are_on_no_list(maker: Any) -> None:
    rows = [{"uid": None if number == 1 else note(number)["uid"]} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), maker.folder / "a.parquet")
    store = open_store(str(maker.folder))
    data = store, index_dataset(store)
    write_list(maker, as_uids([0]))
    assert select(maker, data, allow="list.npy", list_by="uid").kept.tolist() == [0b001]
    assert select(maker, data, deny="list.npy", list_by="uid").kept.tolist() == [0b110]


def test_shards_without_samples_take_no_mask(maker: Any) -> None:
    write_data(maker, "sidecar")
    (maker.folder / "00001.tar").write_bytes(b"")
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    assert [shard.num_chunks for shard in index.shards] == [2, 0, 2, 1]
    seen: list[tuple[int, int]] = []
    spec = SelectionSpec(where={"width": {"min": 170}})
    selection = build_selection(store, index, spec, open_list(maker), lambda done, total: seen.append((done, total)))
    assert kept_samples(
        DatasetIndex.from_rows(index.uri, index.format, [*index.shards[:1], *index.shards[2:]]), selection
    ) == list(range(70, NUM_SAMPLES))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_unknown_column_is_named_with_those_there_are(maker: Any, source: str) -> None:
    data = write_data(maker, source)
    with pytest.raises(DatasetError, match=r"'similarty'.*there are: .*similarity, width, language"):
        select(maker, data, where={"similarty": {"min": 0}})


def test_metadata_that_lies_nowhere_is_named(maker: Any) -> None:
    maker.write_members("a.tar", [("1.txt", b"a")])
    store = open_store(str(maker.folder))
    data = store, index_dataset(store)
    with pytest.raises(DatasetError, match=r"no sample has 'width' in its \.json, and no a\.parquet lies beside it"):
        select(maker, data, where={"width": {"min": 0}})


def test_a_sidecar_must_know_every_sample_once(maker: Any) -> None:
    data = write_data(maker, "sidecar")
    rules = {"where": {"width": {"min": 0}}}
    rows = pq.read_table(maker.folder / "00002.parquet").to_pylist()

    def rewrite(rows: list[Row]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), maker.folder / "00002.parquet")

    rewrite([{**row, "status": "failed_to_resize"} if row["key"] in ("00080", "00090") else row for row in rows])
    with pytest.raises(DatasetError, match=r"00002\.parquet lacks 2 of the 79 samples of 00002\.tar.*key '00080'"):
        select(maker, data, **rules)
    rewrite([*rows, *(row for row in rows if row["key"] == "00080")])
    with pytest.raises(DatasetError, match=r"00002\.parquet has two rows of key '00080'"):
        select(maker, data, **rules)
    rewrite([{**row, "key": int(row["key"])} for row in rows])
    with pytest.raises(DatasetError, match=r"00002\.parquet: its key is int64; wanted text"):
        select(maker, data, **rules)
    rewrite([{"key": row["key"], "width": row["width"]} for row in rows if row["status"] == "success"])
    assert select(maker, data, **rules).num_kept == NUM_SAMPLES
    (maker.folder / "00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"00002\.parquet is not a whole Parquet file"):
        select(maker, data, **rules)


def test_samples_whose_json_cannot_be_read_have_no_values(maker: Any, caplog: pytest.LogCaptureFixture) -> None:
    contents = [b'{"width": 1}', b"{", b"[1]", b'{"other": 1}', b'{"width": 2}']
    members = [(f"{number}.json", content) for number, content in enumerate(contents)]
    maker.write_members("a.tar", [*members, ("5.txt", b"a")])
    store = open_store(str(maker.folder))
    data = store, index_dataset(store)
    assert select(maker, data, where={"width": {"min": 0}}).kept.tolist() == [0b010001]
    assert "the .json of 2 samples is no JSON object" in caplog.text
    assert select(maker, data, where={"width": {"min": 2, "keep_missing": True}}).kept.tolist() == [0b111110]


def test_json_values_of_several_types_are_named(maker: Any) -> None:
    maker.write_members("a.tar", [("0.json", b'{"width": 1}'), ("1.json", b'{"width": "wide"}')])
    store = open_store(str(maker.folder))
    with pytest.raises(DatasetError, match=r"a\.tar: 'width' in the samples' \.json is not of one type"):
        select(maker, (store, index_dataset(store)), where={"width": {"min": 0}})


def test_names_in_a_tar_that_are_not_utf_8_are_keys_all_the_same(maker: Any) -> None:
    maker.write_members("a.tar", [("caf\udce9.json", b'{"width": 1}'), ("plain.json", b'{"width": 2}')])
    store = open_store(str(maker.folder))
    data = store, index_dataset(store)
    write_list(maker, np.array([b"caf\xe9"]))
    assert select(maker, data, allow="list.npy").kept.tolist() == [0b01]
    pq.write_table(pa.table({"key": [b"plain", b"caf\xe9"], "width": [2, 1]}), maker.folder / "a.parquet")
    columns = read_metadata(store, data[1].shards[0], ["width"], has_sidecar=True)
    assert columns["width"].to_pylist() == [1, 2]


def test_a_selection_that_keeps_nothing_says_why(maker: Any, source: str) -> None:
    data = write_data(maker, source)
    write_list(maker, as_uids([1, 2, 3]))
    where = {"width": {"max": 102}, "language": {"one_of": ["fr"]}}
    with pytest.raises(
        DatasetError, match=r"keeps none of 150 samples \(not_allowed 147, where.width 1, where.language 2\)"
    ):
        select(maker, data, allow="list.npy", list_by="uid", where=where)


def test_a_shard_that_changed_since_it_was_indexed_is_damage(maker: Any, source: str) -> None:
    data = write_data(maker, source)
    write_list(maker, np.array(["00000"]))
    path = maker.folder / ("00002.parquet" if source == "parquet" else "00002.tar")
    if source == "parquet":
        pq.write_table(pq.read_table(path).slice(1), path)
    else:
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ShardDamagedError, match="00002"):
        select(maker, data, allow="list.npy")
