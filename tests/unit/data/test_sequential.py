import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.data.sequential import SequentialReader
from orchestrator.storage.local import LocalStore
from orchestrator.storage.range_file import RangeFile
from orchestrator.storage.store import ObjectChangedError, ObjectInfo

CONTENT = os.urandom(5 * 2**20 + 123)


class CountingStore(LocalStore):
    reads: list[tuple[int, int]] = []  # noqa: RUF012  (each test replaces it)

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        self.reads.append((offset, length))
        return super().read_range(path, offset, length, etag)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SequentialReader:
    (tmp_path / "a").write_bytes(CONTENT)
    monkeypatch.setattr(CountingStore, "reads", [])
    store = CountingStore(str(tmp_path))
    (info,) = store.list()
    return SequentialReader(store, info)


@pytest.mark.parametrize(
    "asked",
    [
        [(0, 512), (512, 10), (2048, 512), (3 * 2**20 - 5, 10), (3 * 2**20 + 100, 0)],
        [(0, len(CONTENT))],
        [(len(CONTENT) - 10, 100)],
        [(2**20 - 1, 2), (len(CONTENT) + 5, 10)],
        [],
    ],
)
def test_each_byte_is_read_once_and_hashed_whatever_is_asked_for(
    reader: SequentialReader, asked: list[tuple[int, int]]
) -> None:
    for offset, length in asked:
        assert reader.read_at(offset, length) == CONTENT[offset : offset + length]
    reader.read_rest()
    assert reader.sha256 == hashlib.sha256(CONTENT).hexdigest()
    ends = [0, *(offset + length for offset, length in CountingStore.reads)]
    assert [offset for offset, _ in CountingStore.reads] == ends[:-1]
    assert ends[-1] == len(CONTENT)


def test_what_has_passed_is_read_again_and_hashed_once(reader: SequentialReader) -> None:
    assert reader.read_at(4 * 2**20, 10) == CONTENT[4 * 2**20 :][:10]
    assert reader.read_at(7, 10) == CONTENT[7:17]
    reader.read_rest()
    assert reader.sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(("rest", "any_set"), [(bytes(3 * 2**20), False), (bytes(2**21) + b"\1" + bytes(9), True)])
def test_the_rest_says_whether_it_is_all_zeros(tmp_path: Path, rest: bytes, any_set: bool) -> None:
    (tmp_path / "a").write_bytes(b"head" + rest)
    reader = SequentialReader(LocalStore(str(tmp_path)), ObjectInfo("a", 4 + len(rest), ""))
    assert reader.read_at(0, 4) == b"head"
    assert reader.read_rest() is any_set


def test_another_version_is_refused(reader: SequentialReader, tmp_path: Path) -> None:
    reader.read_at(0, 10)
    os.utime(tmp_path / "a", (1, 1))
    assert reader.read_at(10, 10) == CONTENT[10:20]  # was read before
    with pytest.raises(ObjectChangedError):
        reader.read_rest()


def test_the_file_seeks_and_reads_as_files_do(reader: SequentialReader) -> None:
    file = RangeFile(reader.read_at, reader.size_bytes)
    assert (file.readable(), file.seekable(), file.tell()) == (True, True, 0)
    assert file.read(3) == CONTENT[:3]
    assert file.seek(10, os.SEEK_CUR) == 13
    assert file.seek(-5, os.SEEK_END) == len(CONTENT) - 5
    assert file.read() == CONTENT[-5:]
    assert file.read(1) == b""
