"""Tar shards: what Python's tarfile writes is read, and damage is named instead of read past."""

import io
import os
import tarfile
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data import retry
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.data.tar import BLOCK_BYTES, TarFaultError, walk_members
from orchestrator.data.webdataset import scan_tar
from orchestrator.errors import ShardDamagedError, ShardReadError
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import ObjectInfo


def scan(path: Path) -> tuple[LocalStore, ShardRow]:
    store = LocalStore(str(path.parent))
    info = store.stat(path.name)
    assert info is not None
    return store, scan_tar(store, info)


def read_all(path: Path) -> list[RawSample]:
    store, shard = scan(path)
    return [sample for chunk in range(shard.num_chunks) for sample in read_chunk(store, shard, chunk)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_reads_back_with_long_names(maker: Any, form: int) -> None:
    names = [f"{'deep/' * 30}{number:03d}.png" for number in range(CHUNK_SAMPLES + 5)]
    if form != tarfile.USTAR_FORMAT:  # ustar ends at 100 characters of base name
        names += [f"{'n' * 180}{number:03d}.png" for number in range(5)] + ["Grüße-世界.png"]
    path = maker.write_members("a.tar", [(name, name.encode()) for name in names], form)
    samples = read_all(path)
    assert [sample.key for sample in samples] == [name.removesuffix(".png") for name in names]
    assert [sample.members["png"] for sample in samples] == [name.encode() for name in names]
    assert scan(path)[1].problems == ()


def test_a_chunk_holds_its_range_of_samples_and_only_the_fields_asked_for(maker: Any) -> None:
    store, shard = scan(maker.write_tar("a.tar", range(150)))
    assert (shard.num_samples, shard.num_chunks) == (150, 3)
    assert [shard.chunk_range(chunk) for chunk in range(3)] == [(0, 64), (64, 128), (128, 150)]
    samples = read_chunk(store, shard, 2, ("txt",))
    assert [sample.index for sample in samples] == list(range(128, 150))
    assert [sample.members for sample in samples] == [{"txt": f"caption {n}".encode()} for n in range(128, 150)]


def test_folders_and_names_without_extension_are_no_samples(maker: Any) -> None:
    path = maker.folder / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all members"}) as tar:
        folder = tarfile.TarInfo("folder.d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("README", ".hidden", "folder/1.JPG", "folder/1.seg.npy", "other/1.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    samples = read_all(path)
    assert [(sample.key, set(sample.members)) for sample in samples] == [
        ("folder/1", {"jpg", "seg.npy"}),
        ("other/1", {"jpg"}),
    ]
    assert scan(path)[1].problems == ()


def test_keys_that_come_apart_are_said(maker: Any) -> None:
    path = maker.write_members(
        "a.tar", [("1.png", b""), ("2.png", b""), ("1.txt", b""), ("3.png", b""), ("3.png", b"")]
    )
    _, shard = scan(path)
    assert shard.num_samples == 5
    assert "2 samples repeat a key" in shard.problems[0]


@pytest.mark.parametrize(
    ("cut", "num_whole", "problem"),
    [
        ("inside a header", 69, "cut off inside the header at byte"),
        ("at a member boundary", 69, "no end-of-archive marker at byte"),
        ("at a sample boundary", 69, "no end-of-archive marker at byte"),
        ("inside data", 69, "cut off inside 00070.png"),
        ("to nothing", 0, "the file is empty"),
    ],
)
def test_truncation_is_found_when_indexed_and_whole_samples_stay(
    maker: Any, cut: str, num_whole: int, problem: str
) -> None:
    path = maker.write_tar("a.tar", range(100))
    with tarfile.open(path) as tar:
        image, caption = tar.getmember("00070.png"), tar.getmember("00069.txt")
    length = {
        "inside a header": image.offset + 100,
        "at a member boundary": caption.offset,
        "at a sample boundary": image.offset,
        "inside data": image.offset_data + 10,
        "to nothing": 0,
    }[cut]
    if cut == "inside data":
        num_whole = 70 - 1  # the sample before might have had further members
    path.write_bytes(path.read_bytes()[:length])
    _, shard = scan(path)
    assert problem in shard.problems[0]
    assert shard.num_samples == num_whole
    samples = read_all(path)
    assert [sample.key for sample in samples] == [f"{number:05d}" for number in range(num_whole)]
    assert all(set(sample.members) == {"png", "txt", "json"} for sample in samples)


def test_a_flipped_bit_in_a_header_is_found(maker: Any) -> None:
    path = maker.write_tar("a.tar", range(10))
    with tarfile.open(path) as tar:
        offset = tar.getmember("00005.txt").offset
    content = bytearray(path.read_bytes())
    content[offset + 2] ^= 1
    path.write_bytes(content)
    _, shard = scan(path)
    assert f"damaged header at byte {offset}" in shard.problems[0]
    assert shard.num_samples == 5


@pytest.mark.parametrize("size", ["-1536", "-1", "+3", " 3", "1_0", "0x3", "three", "\u0663", "3" * 5000])
def test_a_pax_size_that_is_no_number_of_bytes_is_damage(size: str) -> None:
    """-1536 leads back to the pax header itself: whoever believed it would never come to an end."""
    info = tarfile.TarInfo("1.png")
    info.size, info.pax_headers = 3, {"size": size}
    archive = info.tobuf(tarfile.PAX_FORMAT) + b"abc".ljust(BLOCK_BYTES, b"\0") + bytes(2 * BLOCK_BYTES)
    walked = walk_members(lambda at, n: archive[at : at + n], 0, len(archive), marked=True)
    with pytest.raises(TarFaultError, match="damaged pax header at byte 0") as damage:
        list(islice(walked, 3))
    assert damage.value.reason == "header_damaged"


def test_an_archive_that_ends_behind_a_long_name_is_cut_off(maker: Any) -> None:
    path = maker.write_members("0.tar", [("0.txt", b"caption"), ("x" * 120 + ".txt", b"lost")], tarfile.GNU_FORMAT)
    data = path.read_bytes()
    data = data[: data.index(b"././@LongLink") + 1024] + bytes(10_240)
    with pytest.raises(TarFaultError, match="no member behind the long name at byte 1024"):
        list(walk_members(lambda offset, length: data[offset : offset + length], 0, len(data), marked=True))


def test_a_long_name_outlasts_a_pax_header_that_has_none() -> None:
    long_name, member = tarfile.TarInfo("x" * 120 + ".txt"), tarfile.TarInfo("y.txt")
    member.pax_headers = {"comment": "of another program"}
    first = long_name.tobuf(tarfile.GNU_FORMAT)[:1024]
    data = first + member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    (found,) = walk_members(lambda offset, length: data[offset : offset + length], 0, len(data), marked=True)
    assert found.name == long_name.name


def test_every_flipped_bit_of_a_header_is_found() -> None:
    info = tarfile.TarInfo("\udcff" * 90 + "/" + "\udcff" * 90)  # the sum of its bytes needs 17 bits
    info.linkname = "\udcff" * 100
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    assert sum(header) > 2**16
    archive = header + bytes(2 * BLOCK_BYTES)

    def walk(data: bytes) -> list[str]:
        return [member.name for member in walk_members(lambda at, n: data[at : at + n], 0, len(data), marked=True)]

    assert walk(archive) == [info.name]
    for bit in (bit for bit in range(8 * BLOCK_BYTES) if not 148 <= bit // 8 < 156):
        damaged = bytearray(archive)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TarFaultError):
            walk(bytes(damaged))


def test_a_size_beyond_reason_is_refused(maker: Any) -> None:
    info = tarfile.TarInfo("1.png")
    info.size = 2**40
    path = maker.folder / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4 * BLOCK_BYTES))
    assert "a member of 1099511627776 bytes" in scan(path)[1].problems[0]


def test_something_else_named_tar_is_said_to_be_none(maker: Any) -> None:
    path = maker.folder / "a.tar"
    path.write_bytes(b"<html>not a tar</html>" * 100)
    assert scan(path)[1].problems == ("no tar header at byte 0",)


def test_a_shard_written_again_since_it_was_indexed_is_refused(maker: Any) -> None:
    path = maker.write_tar("a.tar", range(130))
    store, shard = scan(path)
    assert len(read_chunk(store, shard, 1)) == 64
    message = rf"a\.tar, chunk at byte 0: the shard was written again.*orchestrator data index {store.uri}"
    with open(path, "r+b") as file:  # in place, one byte of data, as many bytes as before
        file.seek(BLOCK_BYTES)
        file.write(b"\0")
    os.utime(path, (1, 1))  # the clock of a file system ticks slowly
    with pytest.raises(ShardDamagedError, match=message):
        read_chunk(store, shard, 0)
    with pytest.raises(ShardDamagedError, match=message):
        scan_tar(store, ObjectInfo(path.name, shard.size_bytes, shard.etag))


def test_a_copy_of_a_shard_without_its_etag_is_named_with_the_offset_of_its_damage(maker: Any) -> None:
    path = maker.write_tar("a.tar", range(130))
    store, shard = scan(path)
    shard = replace(shard, etag="")
    whole = path.read_bytes()
    offset = shard.boundaries[1]

    path.write_bytes(whole[: offset + 5000])
    with pytest.raises(ShardDamagedError, match=rf"a\.tar, chunk at byte {offset}: it ends at byte {offset + 5000}"):
        read_chunk(store, shard, 1)
    assert len(read_chunk(store, shard, 0)) == 64

    maker.write_tar("a.tar", [*range(120), *range(120, 129)])
    with pytest.raises(ShardDamagedError, match=r"a\.tar, chunk at byte"):
        read_chunk(store, shard, 2)

    path.write_bytes(whole[:offset] + b"x" * (len(whole) - offset))
    with pytest.raises(ShardDamagedError, match="no tar header"):
        read_chunk(store, shard, 1)

    path.unlink()
    with pytest.raises(ShardDamagedError, match=r"the shard is gone.*orchestrator data index"):
        read_chunk(store, shard, 0)


@dataclass(frozen=True)
class FailingStore(LocalStore):
    """Fails that many reads, then works."""

    failures: list[int] = field(default_factory=list)

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        if self.failures:
            self.failures.pop()
            raise ShardReadError("connection reset")
        return super().read_range(path, offset, length, etag)


def test_a_read_that_fails_in_passing_loses_no_sample(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0)
    path = maker.write_tar("a.tar", range(100))
    store, shard = scan(path)
    failing = FailingStore(store.uri, [1, 1])
    assert read_chunk(failing, shard, 1) == read_chunk(store, shard, 1)
    assert not failing.failures


def test_a_read_that_keeps_failing_is_no_damage(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0)
    store, shard = scan(maker.write_tar("a.tar", range(3)))
    with pytest.raises(ShardReadError, match="connection reset"):
        read_chunk(FailingStore(store.uri, [1] * 10), shard, 0)


def test_scanning_takes_what_a_store_gives_in_any_portion(maker: Any) -> None:
    path = maker.write_tar("a.tar", range(70))
    store, shard = scan(path)

    @dataclass(frozen=True)
    class Greedy(LocalStore):
        read_unit_bytes = 2**23

    info = ObjectInfo(path.name, shard.size_bytes, shard.etag)
    assert scan_tar(Greedy(store.uri), info) == shard
    assert replace(shard, num_samples=1).num_chunks == 1
