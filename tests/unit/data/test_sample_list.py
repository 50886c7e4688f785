"""Lists of samples: every form finds exactly its values, and one that does not fit its column is named."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.sample_list import UID, open_sample_list
from orchestrator.errors import DatasetError
from orchestrator.storage.store import open_store

DRAW = random.Random(3)
UIDS = [f"{DRAW.getrandbits(128):032x}" for _ in range(200)]
# Equal upper halves, and the least and greatest number: where a search by halves can go wrong.
UIDS += [f"{7:016x}{number:016x}" for number in range(50)] + ["0" * 32, "f" * 32]


def as_halves(uids: list[str]) -> np.ndarray[Any, Any]:
    return np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], UID)


def write(folder: Path, values: Any, name: str = "list.npy") -> Path:
    np.save(folder / name, values)
    return folder / name


def find(file: Path, column: pa.Array, list_by: str = "uid") -> list[bool]:
    with open_sample_list(open_store(str(file.parent)), file.name, list_by) as listed:
        return listed.contains(column, "the column").tolist()


@pytest.mark.parametrize("is_sorted", [True, False])
def test_uids_are_found_as_128_bit_numbers(tmp_path: Path, is_sorted: bool) -> None:
    listed = DRAW.sample(UIDS, len(UIDS) // 2)
    halves = as_halves(sorted(listed) if is_sorted else listed)
    asked = DRAW.sample(UIDS, len(UIDS))
    expected = [uid in set(listed) for uid in asked]
    assert find(write(tmp_path, halves), pa.array(asked)) == expected
    assert find(write(tmp_path, halves), pa.array([uid.upper() for uid in asked], pa.large_string())) == expected
    assert find(write(tmp_path, halves.astype(">u8,>u8")), pa.array(asked)) == expected


def test_a_sorted_list_is_mapped_and_another_is_sorted_in_memory(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write(tmp_path, as_halves(sorted(UIDS)), "sorted.npy")
    write(tmp_path, as_halves(sorted(UIDS, reverse=True)), "unsorted.npy")
    with open_sample_list(store, "sorted.npy", "uid") as mapped, open_sample_list(store, "unsorted.npy", "uid") as read:
        assert isinstance(mapped.values.base, np.memmap)
        assert not isinstance(read.values.base, np.memmap)
        assert mapped.values.tolist() == read.values.tolist()


def test_what_is_no_uid_is_on_no_list_of_uids(tmp_path: Path) -> None:
    file = write(tmp_path, as_halves([UIDS[0]]))
    asked = [UIDS[0], None, UIDS[0][:-1], UIDS[0] + "0", "z" * 32, "", "ü" * 16]
    assert find(file, pa.array(asked)) == [True] + [False] * 6
    with pytest.raises(
        DatasetError, match=r"list\.npy lists 128-bit uids, but the column holds string such as '00001'"
    ):
        find(file, pa.array(["00001", "00002"]))


@pytest.mark.parametrize("kind", ["U", "S"])
def test_text_is_found_whole(tmp_path: Path, kind: str) -> None:
    listed = ["b", "abc", "Zoë", "世界"]
    values = np.array(listed) if kind == "U" else np.array([text.encode() for text in listed])
    asked = ["abc", "ab", "abcd", "abc" * 20, None, "b", "Zoë", "世界", "世", ""]
    expected = [text in listed for text in asked]
    assert find(write(tmp_path, values), pa.array(asked)) == expected
    assert find(write(tmp_path, np.sort(values)), pa.array(asked)) == expected
    assert find(write(tmp_path, values), pa.array([b"abc", b"\xff"], pa.binary())) == [True, False]


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "u8"])
def test_whole_numbers_of_any_width_compare_by_value(tmp_path: Path, dtype: str) -> None:
    file = write(tmp_path, np.array([200, 3, 0] if dtype == "u1" else [70_000, 3, 0], dtype))
    assert find(file, pa.array([3, None, 259, -1, 2**62], pa.int64())) == [True, False, False, False, False]
    assert find(file, pa.array([3, 2**64 - 1], pa.uint64())) == [True, False]


def test_numbers_beyond_double_precision_stay_apart(tmp_path: Path) -> None:
    file = write(tmp_path, np.array([2**60 + 1], np.int64))
    assert find(file, pa.array([2**60, 2**60 + 1, 2**60 + 2], pa.uint64())) == [False, True, False]


@pytest.mark.parametrize("values", [np.zeros(0, UID), np.zeros(0, "U3"), np.zeros(0, "i8")])
def test_an_empty_list_holds_nothing(tmp_path: Path, values: Any) -> None:
    assert find(write(tmp_path, values), pa.array(["a", None])) == [False, False]


@pytest.mark.parametrize(
    ("values", "column", "said"),
    [
        (np.array([1]), pa.array(["00001"]), "lists whole numbers, but the column holds string such as '00001'"),
        (np.array([1]), pa.array([1.0]), "lists whole numbers, but the column holds double such as 1.0"),
        (np.array(["1"]), pa.array([1]), "lists text, but the column holds int64 such as 1"),
        (as_halves(UIDS), pa.array([1]), "lists 128-bit uids, but the column holds int64 such as 1"),
    ],
)
def test_a_list_of_another_type_than_its_column_is_named(
    tmp_path: Path, values: Any, column: pa.Array, said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        find(write(tmp_path, values), column)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([1.5]), "holds float64 of shape"),
        (np.array([[1, 2]]), r"holds int64 of shape \(1, 2\)"),
        (np.zeros(2, "u8,u8,u8"), "wanted one dimension of text, whole numbers, or pairs of uint64"),
    ],
)
def test_an_array_that_is_no_list_is_refused(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        find(write(tmp_path, values), pa.array(["a"]))


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    objects = np.empty(1, object)
    objects[0] = Trap(sprung)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("objects.npy", "bare.npy"):
        with pytest.raises(DatasetError, match=rf"{name} is no \.npy file that can be read"):
            find(tmp_path / name, pa.array(["a"]))
    assert not sprung.exists()


def test_files_that_are_absent_damaged_or_archives_are_named(tmp_path: Path) -> None:
    cut = write(tmp_path, np.arange(100), "cut.npy")
    cut.write_bytes(cut.read_bytes()[:-100])
    with open(tmp_path / "zip.npy", "wb") as file:
        np.savez(file, a=np.arange(3))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    for name in ("cut.npy", "absent.npy", "cut.parquet", "absent.parquet"):
        with pytest.raises(DatasetError, match=f"{name} is no .* file that can be read"):
            find(tmp_path / name, pa.array(["a"]))
    with pytest.raises(DatasetError, match="holds an archive of arrays"):
        find(tmp_path / "zip.npy", pa.array(["a"]))


def test_parquet_lists_by_their_column_or_their_only_one(tmp_path: Path) -> None:
    listed = [*UIDS[:60], None]
    pq.write_table(pa.table({"url": [str(n) for n in range(61)], "uid": listed}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"anything": listed}), tmp_path / "one.parquet", row_group_size=7)
    for name in ("two.parquet", "one.parquet"):
        with open_sample_list(open_store(str(tmp_path)), name, "uid") as sample_list:
            assert sample_list.values.dtype == UID
        assert find(tmp_path / name, pa.array(UIDS)) == [position < 60 for position in range(len(UIDS))]
    with pytest.raises(DatasetError, match=r"two\.parquet has no column 'key'; there are: url, uid"):
        find(tmp_path / "two.parquet", pa.array(["a"]), "key")


def test_parquet_lists_of_text_and_whole_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["c", UIDS[0], "a"]}), tmp_path / "text.parquet")
    assert find(tmp_path / "text.parquet", pa.array(["a", "b", UIDS[0]]), "key") == [True, False, True]
    pq.write_table(pa.table({"key": pa.array([5, None, 2], pa.int32())}), tmp_path / "ints.parquet")
    assert find(tmp_path / "ints.parquet", pa.array([1, 2, 5]), "key") == [False, True, True]
    pq.write_table(pa.table({"key": [0.5]}), tmp_path / "floats.parquet")
    with pytest.raises(DatasetError, match="its column 'key' holds double; wanted text or whole numbers"):
        find(tmp_path / "floats.parquet", pa.array([1]), "key")
