"""``data verify`` over really damaged shards: one shard of each damage, verified together in real processes."""

import io
import json
import multiprocessing
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.audit import SampleRules
from orchestrator.data.chunk_sample import Sampling, choose_chunks
from orchestrator.data.index import INDEX_PATH, load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.problems import REASONS, Problem
from orchestrator.data.readers import read_chunk
from orchestrator.data.shard import ShardRow
from orchestrator.data.shard_table import ShardTable
from orchestrator.data.verify import Verification, fix_index, verify_dataset
from orchestrator.data.verify_shard import ShardTask, verify_shard
from orchestrator.errors import DatasetError, MemoryExhaustedError, ShardReadError, StorageAccessError
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import ObjectInfo, Store, open_store

NUM_SAMPLES = 6
RULES = SampleRules(max_image_pixels=10_000)

Members = list[tuple[str, bytes]]
Found = list[tuple[str, str | None]]
"""(reason, key) of each problem, sorted."""


@dataclass(frozen=True)
class Case:
    """A shard whose samples are numbered from ``first``, what is done to it, and what must be found."""

    name: str
    damage: Callable[[Any, str, int], None]
    """(maker, file name, first): writes the shard."""
    reasons: tuple[str, ...] = ()
    """Of the whole shard."""
    sample_reasons: tuple[str, ...] = ()
    """Of the third sample."""

    def found(self, first: int, parquet: bool) -> Found:
        key = "2" if parquet else f"{first + 2:05d}"
        return sorted(
            [*((reason, None) for reason in self.reasons), *((reason, key) for reason in self.sample_reasons)]
        )


def check(store: Store, sampling: Sampling | None = None, num_processes: int = 1) -> tuple[Verification, list[Problem]]:
    problems: list[Problem] = []
    result = verify_dataset(store, RULES, num_processes, sampling, on_problem=problems.append)
    assert result.counts.total() == len(problems)
    return result, problems


def found_in(problems: list[Problem], shard: str) -> Found:
    return sorted(((problem.reason, problem.key) for problem in problems if problem.shard == shard), key=str)


# Images and captions that are wrong; both formats hold them.


def png_header(width: int, height: int) -> bytes:
    """A whole PNG but for its pixels: what a decompression bomb looks like."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def cut_jpeg() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((90, 90), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()[:-200]


CONTENT: list[tuple[str, str, bytes | None, tuple[str, ...]]] = [
    ("image_missing", "png", None, ("image_missing",)),
    ("image_empty", "png", b"", ("image_undecodable",)),
    ("image_html", "png", b"<html>404</html>", ("image_undecodable",)),
    ("image_cut", "png", cut_jpeg(), ("image_undecodable",)),
    ("image_large", "png", png_header(200, 100), ("image_too_large",)),
    ("image_bomb", "png", png_header(60_000, 60_000), ("image_too_large",)),
    ("caption_missing", "txt", None, ("caption_missing",)),
    ("caption_empty", "txt", b"", ("caption_empty",)),
    ("caption_blank", "txt", b" \n\t", ("caption_empty",)),
    ("caption_latin1", "txt", "Stra\xdfe".encode("latin-1"), ("caption_undecodable",)),
    ("caption_nul", "txt", b"a red\0 cube", ("caption_broken",)),
    ("caption_replaced", "txt", "stra\ufffde".encode(), ("caption_broken",)),
    ("caption_fine", "txt", "Straße 世界 🙂\n".encode(), ()),
]


def tar_content(extension: str, data: bytes | None) -> Callable[[Any, str, int], None]:
    """The third sample's member holds ``data``, or is left out."""

    def write(maker: Any, name: str, first: int) -> None:
        wanted = f"{first + 2:05d}.{extension}"
        members = ((member, data if member == wanted else content) for member, content in all_members(maker, first))
        maker.write_members(name, [(member, content) for member, content in members if content is not None])

    return write


def parquet_content(extension: str, data: bytes | None) -> Callable[[Any, str, int], None]:
    def write(maker: Any, name: str, first: int) -> None:
        rows = [
            dict(member[6:] and (member[6:], content) for member, content in maker.members(n)) for n in numbers(first)
        ]
        rows[2][extension] = data
        pq.write_table(pa.Table.from_pylist(rows), maker.folder / name, row_group_size=3)

    return write


def numbers(first: int) -> range:
    return range(first, first + NUM_SAMPLES)


def all_members(maker: Any, first: int) -> Members:
    return [member for number in numbers(first) for member in maker.members(number)]


# Tar archives that are wrong.


def cut_tar(where: Callable[[tarfile.TarInfo], int], member: str = "txt") -> Callable[[Any, str, int], None]:
    """End the shard at a byte that a member of the third sample tells."""

    def write(maker: Any, name: str, first: int) -> None:
        path = maker.write_tar(name, numbers(first))
        with tarfile.open(path) as tar:
            length = where(tar.getmember(f"{first + 2:05d}.{member}"))
        path.write_bytes(path.read_bytes()[:length])

    return write


def flip_header(maker: Any, name: str, first: int) -> None:
    path = maker.write_tar(name, numbers(first))
    with tarfile.open(path) as tar:
        offset = tar.getmember(f"{first + 2:05d}.txt").offset
    content = bytearray(path.read_bytes())
    content[offset + 2] ^= 1
    path.write_bytes(content)


def write_content(content: bytes) -> Callable[[Any, str, int], None]:
    return lambda maker, name, first: (maker.folder / name).write_bytes(content)


def write_giant(maker: Any, name: str, first: int) -> None:
    info = tarfile.TarInfo(f"{first:05d}.png")
    info.size = 2**40
    (maker.folder / name).write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))


def write_two_archives(maker: Any, name: str, first: int) -> None:
    path = maker.write_tar(name, numbers(first))
    path.write_bytes(path.read_bytes() * 2)


def write_readme(maker: Any, name: str, first: int) -> None:
    maker.write_members(name, [("README", b"nothing")])


def repeat_member(maker: Any, name: str, first: int) -> None:
    members = all_members(maker, first)
    members.insert(9, (f"{first + 2:05d}.txt", b"another caption"))
    maker.write_members(name, members)


def tear_sample(maker: Any, name: str, first: int) -> None:
    members = all_members(maker, first)
    members.append(members.pop(7))  # the third sample's caption lies behind the last sample
    maker.write_members(name, members)


def repeat_content(maker: Any, name: str, first: int) -> None:
    """The third sample is the first one under another key."""
    members = all_members(maker, first)
    members[6:9] = [(f"{first + 2:05d}{member[5:]}", data) for member, data in members[:3]]
    maker.write_members(name, members)


def stats(content: bytes) -> Callable[[Any, str, int], None]:
    def write(maker: Any, name: str, first: int) -> None:
        (maker.write_tar if name.endswith(".tar") else maker.write_parquet)(name, numbers(first))
        (maker.folder / name).with_name(name.rpartition(".")[0] + "_stats.json").write_bytes(content)

    return write


STATS = [
    Case("stats_fine", stats(json.dumps({"count": 9, "successes": NUM_SAMPLES}).encode())),
    Case("stats_other", stats(json.dumps({"count": 9, "successes": 9}).encode()), ("stats_mismatch",)),
    Case("stats_cut", stats(b'{"count": 9, "succ'), ("stats_damaged",)),
    Case("stats_list", stats(b"[1]"), ("stats_damaged",)),
    Case("stats_infinite", stats(b'{"successes": 1e999}'), ("stats_damaged",)),
]
TARS = [
    Case("fine", lambda maker, name, first: maker.write_tar(name, numbers(first))),
    Case("empty", write_content(b""), ("shard_empty",)),
    Case("cut_header", cut_tar(lambda member: member.offset + 100), ("truncated_header",)),
    Case("cut_data", cut_tar(lambda member: member.offset_data + 3), ("truncated_data",)),
    Case("cut_members", cut_tar(lambda member: member.offset), ("truncated_end",)),
    Case("cut_samples", cut_tar(lambda member: member.offset, "png"), ("truncated_end",)),
    Case("flipped", flip_header, ("header_damaged",)),
    Case("html", write_content(b"<html>404</html>" * 100), ("header_damaged",)),
    Case("giant", write_giant, ("member_too_large",)),
    Case("two_archives", write_two_archives, ("trailing_data",)),
    Case("readme", write_readme, ("no_samples",)),
    Case("member_missing", tar_content("json", None), (), ("member_missing",)),
    Case("member_twice", repeat_member, (), ("image_missing", "member_duplicate", "member_missing")),
    Case("torn", tear_sample, (), ("caption_missing", "image_missing", "key_noncontiguous", "member_missing")),
    Case("same_content", repeat_content, (), ("sample_duplicate",)),
    *STATS,
    *(Case(name, tar_content(field, data), (), reasons) for name, field, data, reasons in CONTENT),
]


# Parquet files that are wrong.


def cut_parquet(maker: Any, name: str, first: int) -> None:
    path = maker.write_parquet(name, numbers(first))
    path.write_bytes(path.read_bytes()[:-100])


def break_page(maker: Any, name: str, first: int) -> None:
    path = maker.write_parquet(name, numbers(first), rows_per_group=2)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(content)


def flip_checked_page(maker: Any, name: str, first: int) -> None:
    path = maker.write_parquet(name, numbers(first), rows_per_group=2)
    pq.write_table(pq.read_table(path), path, row_group_size=2, write_page_checksum=True, use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)


def write_no_rows(maker: Any, name: str, first: int) -> None:
    pq.write_table(pa.table({"txt": pa.array([], pa.string())}), maker.folder / name)


def repeat_row(maker: Any, name: str, first: int) -> None:
    path = maker.write_parquet(name, numbers(first))
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows[:2], rows[0], *rows[3:]]), path)


def write_column(name: str, values: pa.Array) -> Callable[[Any, str, int], None]:
    """A column of the shard is another one."""

    def write(maker: Any, file: str, first: int) -> None:
        path = maker.write_parquet(file, numbers(first))
        table = pq.read_table(path)
        table = table.drop_columns(name) if name in table.column_names else table
        pq.write_table(table.append_column(name, values), path)

    return write


def repeat_column(maker: Any, name: str, first: int) -> None:
    path = maker.write_parquet(name, numbers(first))
    table = pq.read_table(path)
    pq.write_table(table.append_column("txt", table["txt"]), path)


PARQUETS = [
    Case("fine", lambda maker, name, first: maker.write_parquet(name, numbers(first), rows_per_group=4)),
    Case("empty", write_content(b""), ("shard_empty",)),
    Case("cut", cut_parquet, ("parquet_damaged",)),
    Case("html", write_content(b"<html>404</html>" * 100), ("parquet_damaged",)),
    Case("broken_page", break_page, ("parquet_damaged",)),
    Case("flipped_page", flip_checked_page, ("parquet_damaged",)),
    Case("no_rows", write_no_rows, ("no_samples",)),
    Case(
        "large_group",
        lambda maker, name, first: maker.write_parquet(name, range(10_000, 11_100), 2000),
        ("row_group_large",),
    ),
    Case("same_content", repeat_row, (), ("sample_duplicate",)),
    Case("listed_captions", write_column("txt", pa.array([["a cat", "b"]] * NUM_SAMPLES)), ("column_unusable",)),
    Case("captions_twice", repeat_column, ("column_unusable",)),
    Case("far_dates", write_column("taken", pa.array([2**30] * NUM_SAMPLES, pa.date32()))),
    *STATS,
    *(Case(name, parquet_content(field, data), (), reasons) for name, field, data, reasons in CONTENT),
]


def verify_cases(maker: Any, cases: list[Case], ending: str) -> list[Problem]:
    for number, case in enumerate(cases):
        case.damage(maker, f"{case.name}.{ending}", 10 * number)
    return check(open_store(str(maker.folder)), num_processes=2)[1]


@pytest.fixture(scope="module")
def tar_problems(shard_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return verify_cases(shard_maker(tmp_path_factory.mktemp("tars")), TARS, "tar")


@pytest.fixture(scope="module")
def parquet_problems(shard_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return verify_cases(shard_maker(tmp_path_factory.mktemp("parquets")), PARQUETS, "parquet")


@pytest.mark.parametrize("case", TARS, ids=lambda case: case.name)
def test_damage_of_a_tar_shard_is_found_by_reason_and_nothing_else(tar_problems: list[Problem], case: Case) -> None:
    assert found_in(tar_problems, f"{case.name}.tar") == case.found(10 * TARS.index(case), parquet=False)


@pytest.mark.parametrize("case", PARQUETS, ids=lambda case: case.name)
def test_damage_of_a_parquet_shard_is_found_by_reason_and_nothing_else(
    parquet_problems: list[Problem], case: Case
) -> None:
    assert found_in(parquet_problems, f"{case.name}.parquet") == case.found(0, parquet=True)


def test_details_say_where_and_name_no_address_in_memory(tar_problems: list[Problem]) -> None:
    details = {f"{problem.shard} {problem.reason}": problem.detail for problem in tar_problems}
    assert "at byte" in details["cut_header.tar truncated_header"]
    assert details["stats_other.tar stats_mismatch"] == "6 images, stats_other_stats.json says 9"
    assert details["image_html.tar image_undecodable"] == "16 bytes: cannot identify image file"
    assert "txt: byte 4 is not UTF-8" in details["caption_latin1.tar caption_undecodable"]
    assert details["caption_nul.tar caption_broken"] == "txt: U+0000 at character 5"
    first = TARS.index(next(case for case in TARS if case.name == "same_content")) * 10
    assert details["same_content.tar sample_duplicate"] == f"the same as {first:05d} in same_content.tar"
    assert all(problem.reason in REASONS for problem in tar_problems)


def test_every_reason_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    assert [reason for reason, meaning in REASONS.items() if f"| `{reason}` | {meaning} |" not in text] == []


# Against an index.


def write_indexed(maker: Any, ending: str) -> Store:
    """Seven shards with an index that holds their checksums."""
    write = maker.write_tar if ending == "tar" else maker.write_parquet
    for number, name in enumerate(("bits", "counted", "fine", "gone", "longer", "newer", "rewritten")):
        write(f"{name}.{ending}", numbers(10 * number))
    store = open_store(str(maker.folder))
    result, problems = check(store)
    assert problems == []
    assert f"{7 * NUM_SAMPLES} whole samples in 7 shards (there was none before)" in fix_index(store, result)
    return store


def flip_silently(path: Path, position: int) -> None:
    """As a disk does it: neither size nor time tells."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_what_differs_from_the_index_is_found_by_reason(maker: Any, ending: str) -> None:
    store = write_indexed(maker, ending)
    index = load_index(store)
    assert index is not None
    shards = [replace(row, num_samples=5) if row.path.startswith("counted") else row for row in index.shards]
    save_index(
        store, replace(index, shards=ShardTable.from_rows(row for row in shards if not row.path.startswith("newer")))
    )
    folder = maker.folder
    path = folder / f"bits.{ending}"
    flip_silently(path, path.read_bytes().index(b"caption ") + 1)
    (folder / f"gone.{ending}").unlink()
    os.utime(folder / f"rewritten.{ending}", (1, 1))
    longer = (folder / f"longer.{ending}").read_bytes()
    (folder / f"longer.{ending}").write_bytes(longer + bytes(512) if ending == "tar" else longer[:4] + longer)
    _, problems = check(store)
    found = {problem.shard.partition(".")[0]: problem.reason for problem in problems}
    assert found.pop("bits") == "checksum_mismatch"
    assert found.pop("longer") in ("size_mismatch", "parquet_damaged")
    assert found == {
        "counted": "count_mismatch",
        "gone": "shard_missing",
        "newer": "shard_unindexed",
        "rewritten": "etag_mismatch",
    }


def test_an_index_that_does_not_read_is_a_problem_and_can_be_renewed(maker: Any) -> None:
    maker.write_tar("a.tar", range(3))
    store = open_store(str(maker.folder))
    store.write_bytes(INDEX_PATH, b"nonsense")
    result, problems = check(store)
    assert [(problem.shard, problem.reason) for problem in problems] == [(INDEX_PATH, "index_damaged")]
    fix_index(store, result)
    assert check(store)[1] == []


# The index anew.


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_index_anew_counts_only_whole_samples_and_they_read(maker: Any, ending: str) -> None:
    write = maker.write_tar if ending == "tar" else maker.write_parquet
    write(f"whole.{ending}", range(100, 170))
    if ending == "tar":
        cut_tar(lambda member: member.offset_data + 3)(maker, "damaged.tar", 0)
    else:
        break_page(maker, "damaged.parquet", 0)
    store = open_store(str(maker.folder))
    save_index(store, index_dataset(store))
    result, problems = check(store)
    said = fix_index(store, result)
    assert "72 whole samples in 2 shards (before: " in said
    assert "1 of them damaged" in said
    index = load_index(store)
    assert index is not None
    assert [row.num_samples for row in index.shards] == [2, 70]
    for row in index.shards:
        samples = [sample for chunk in range(row.num_chunks) for sample in read_chunk(store, row, chunk)]
        assert len(samples) == row.num_samples
    reasons = ["truncated_data"] if ending == "tar" else ["parquet_damaged", "count_mismatch"]
    assert [problem.reason for problem in problems] == reasons
    assert [problem.reason for problem in check(store)[1]] == reasons[:1]  # now the index tells the truth about it


def test_no_index_is_written_without_a_whole_sample(maker: Any) -> None:
    (maker.folder / "a.tar").touch()
    store = open_store(str(maker.folder))
    with pytest.raises(DatasetError, match="no whole sample"):
        fix_index(store, check(store)[0])
    assert store.stat(INDEX_PATH) is None


class FailingStore(LocalStore):
    """A folder on a disk that fails."""

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        raise ShardReadError("input/output error")


def test_a_storage_that_fails_is_named_and_leaves_the_index_alone(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.data.retry.PAUSE_S", 0)
    maker.write_tar("a.tar", range(3))
    store = FailingStore(str(maker.folder))
    (info,) = store.list()
    findings = verify_shard(ShardTask(store, RULES, info, None, None))
    assert [(problem.reason, problem.detail) for problem in findings.problems] == [
        ("shard_unreadable", "input/output error")
    ]
    result = Verification(store.uri, "webdataset", 1, None)
    result.add(findings.problems[0])
    with pytest.raises(ShardReadError, match=r"index was left as it is.*a\.tar: input/output error"):
        fix_index(store, result)
    assert store.stat(INDEX_PATH) is None


@dataclass(frozen=True)
class RefusingStore(LocalStore):
    """A folder that holds one file that this user may not read."""

    refused: str = ""

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        self._check(path)
        return super().read_range(path, offset, length, etag)

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        self._check(path)
        return super().read_versioned(path)

    def open_input(self, path: str) -> Any:
        self._check(path)
        return super().open_input(path)

    def _check(self, path: str) -> None:
        if path == self.refused:
            raise StorageAccessError(f"{path} does not open: Permission denied")


@pytest.mark.parametrize("sampling", [None, Sampling(1, 0)])
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_shard_that_may_not_be_read_is_a_finding_among_others(
    maker: Any, ending: str, indexed: bool, sampling: Sampling | None
) -> None:
    write = maker.write_tar if ending == "tar" else maker.write_parquet
    for number in range(2):
        write(f"{number}.{ending}", numbers(10 * number))
    store = RefusingStore(str(maker.folder), f"0.{ending}")
    if indexed:
        save_index(store, index_dataset(open_store(store.uri)))
    result, problems = check(store, sampling)
    assert problems == [
        Problem(f"0.{ending}", "shard_unreadable", None, f"0.{ending} does not open: Permission denied")
    ]
    assert result.num_samples == NUM_SAMPLES
    if sampling is None:
        with pytest.raises(ShardReadError, match="index was left as it is"):
            fix_index(store, result)


def test_a_note_that_may_not_be_read_does_not_make_its_shard_unread(maker: Any) -> None:
    stats(b'{"successes": 6}')(maker, "a.tar", 0)
    store = RefusingStore(str(maker.folder), "a_stats.json")
    result, problems = check(store)
    assert [(problem.shard, problem.reason) for problem in problems] == [("a.tar", "stats_damaged")]
    assert "6 whole samples in 1 shards" in fix_index(store, result)


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_shard_that_is_written_while_it_is_read_is_named(maker: Any, ending: str) -> None:
    write = maker.write_tar if ending == "tar" else maker.write_parquet
    write(f"a.{ending}", range(3))
    store = open_store(str(maker.folder))
    (info,) = store.list()
    os.utime(maker.folder / info.path, (1, 1))
    for listed in (info, ObjectInfo(f"gone.{ending}", 10_240, "etag")):
        findings = verify_shard(ShardTask(store, RULES, listed, None, None))
        assert [problem.reason for problem in findings.problems] == ["shard_changed"]


# A share of the chunks.


def test_duplicates_are_left_out_where_nobody_asks_for_them(maker: Any) -> None:
    for name in ("a.tar", "b.tar"):
        maker.write_tar(name, range(3))
    store = open_store(str(maker.folder))
    assert verify_dataset(store, RULES, 1).counts["sample_duplicate"] == 3
    assert not verify_dataset(store, RULES, 1, duplicates=False).counts


def chunks_of(rows: list[ShardRow], fraction: float, seed: int = 0) -> set[tuple[str, int]]:
    chosen = choose_chunks(ShardTable.from_rows(rows), Sampling(fraction, seed))
    return {(path, chunk) for path, chunks in chosen.items() for chunk in chunks}


def test_chunks_are_drawn_by_seed_and_share_alone() -> None:
    rows = [ShardRow(f"{number}.tar", 0, "", 64 * 50, ()) for number in range(4)]
    chosen = chunks_of(rows, 0.07)
    assert len(chosen) == 14
    assert len(chunks_of(rows, 0.071)) == 15
    assert len(chunks_of(rows, 0.0001)) == 1
    assert len(chunks_of(rows, 1)) == 200
    assert chunks_of(rows[::-1], 0.07) == chosen
    assert chunks_of(rows, 0.07, seed=1) != chosen
    assert chosen < chunks_of(rows, 0.2)


@pytest.mark.parametrize("indexed", [True, False])
def test_only_the_chunks_of_the_sample_are_looked_at(maker: Any, indexed: bool) -> None:
    path = maker.write_tar("a.tar", range(640))
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    if indexed:
        save_index(store, index)
    with tarfile.open(path) as tar:
        damaged = [tar.getmember(f"{64 * chunk:05d}.png").offset_data for chunk in range(10)]
    for position in damaged:
        flip_silently(path, position)
    result, problems = check(store, Sampling(0.3, 5))
    assert result.num_samples == 3 * 64
    drawn = choose_chunks(index.shards, Sampling(0.3, 5))["a.tar"]
    assert [(problem.reason, problem.key) for problem in problems] == [
        ("image_undecodable", f"{64 * chunk:05d}") for chunk in drawn
    ]


def test_a_sample_still_says_what_is_known_without_reading(maker: Any) -> None:
    maker.write_tar("fine.tar", numbers(0))
    (maker.folder / "empty.tar").touch()
    cut_tar(lambda member: member.offset)(maker, "cut.tar", 10)
    stats(b'{"successes": 7}')(maker, "stats.tar", 20)
    maker.write_tar("longer.tar", numbers(30))
    store = open_store(str(maker.folder))
    save_index(store, index_dataset(store))
    path = maker.folder / "longer.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    result, problems = check(store, Sampling(0.01, 0))
    assert result.num_samples <= NUM_SAMPLES
    assert {(problem.shard, problem.reason) for problem in problems} == {
        ("cut.tar", "shard_damaged"),
        ("empty.tar", "shard_empty"),
        ("longer.tar", "size_mismatch"),
        ("stats.tar", "stats_mismatch"),
    }


def test_a_sampled_chunk_that_does_not_read_is_named(maker: Any) -> None:
    maker.write_tar("a.tar", range(100))
    store = open_store(str(maker.folder))
    index = index_dataset(store)
    save_index(store, index)
    flip_silently(maker.folder / "a.tar", index.shards[0].boundaries[1])
    result, problems = check(store, Sampling(1, 0))
    assert result.num_samples == 64
    assert [problem.reason for problem in problems] == ["shard_damaged"]
    assert f"chunk at byte {index.shards[0].boundaries[1]}" in problems[0].detail


def test_of_a_parquet_chunk_only_images_and_captions_are_looked_at(maker: Any) -> None:
    write_column("taken", pa.array([2**30] * NUM_SAMPLES, pa.date32()))(maker, "dates.parquet", 0)
    write_column("txt", pa.array([["a cat", "b"]] * NUM_SAMPLES))(maker, "lists.parquet", 10)
    _, problems = check(open_store(str(maker.folder)), Sampling(1, 0))
    assert [(problem.shard, problem.reason) for problem in problems] == [("lists.parquet", "column_unusable")]
    assert "column 'txt' is of type list<element: string>; wanted bytes, text or a number" in problems[0].detail


def test_a_process_that_is_killed_ends_the_work_by_name(maker: Any) -> None:
    for number in range(40):
        maker.write_tar(f"{number:02d}.tar", range(20 * number, 20 * number + 20))

    def kill_readers(done: int, total: int) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(MemoryExhaustedError, match=r"while shards from \d\d\.tar on were read.*more memory"):
        verify_dataset(open_store(str(maker.folder)), RULES, 1, progress=kill_readers)


def test_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no shards"):
        check(open_store(str(tmp_path)))
