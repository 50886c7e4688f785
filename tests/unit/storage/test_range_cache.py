"""The cache gives back what was read, once, within its bound, and never an older version."""

import os
from pathlib import Path

import pytest

from orchestrator.storage.range_cache import RangeCache


class Source:
    """Counts its reads."""

    def __init__(self) -> None:
        self.num_reads = 0

    def read(self) -> bytes:
        self.num_reads += 1
        return b"%0101d" % self.num_reads


@pytest.fixture
def source() -> Source:
    return Source()


def held_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.name != ".size")


def test_a_range_is_read_once(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path / "cache"), 10_000)
    first = cache.fetch("s3://b/a.tar", "1", 0, 101, source.read)
    assert cache.fetch("s3://b/a.tar", "1", 0, 101, source.read) == first
    assert source.num_reads == 1


@pytest.mark.parametrize("other", [("s3://b/b.tar", "1", 0), ("s3://b/a.tar", "2", 0), ("s3://b/a.tar", "1", 7)])
def test_anything_else_is_another_range(tmp_path: Path, source: Source, other: tuple[str, str, int]) -> None:
    cache = RangeCache(str(tmp_path), 10_000)
    first = cache.fetch("s3://b/a.tar", "1", 0, 101, source.read)
    assert cache.fetch(*other, 101, source.read) != first


def test_what_has_no_etag_is_not_kept(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path), 10_000)
    assert cache.fetch("a", "", 0, 101, source.read) != cache.fetch("a", "", 0, 101, source.read)
    assert not list(tmp_path.iterdir())


def test_what_was_used_longest_ago_goes_when_it_is_full(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path), 2_000)
    for number in range(60):
        cache.fetch("a", "1", number, 101, source.read)
        cache.fetch("a", "1", 0, 101, source.read)  # always in use
        assert held_bytes(tmp_path) <= 2_000
    num_reads = source.num_reads
    cache.fetch("a", "1", 0, 101, source.read)
    cache.fetch("a", "1", 59, 101, source.read)
    assert source.num_reads == num_reads
    cache.fetch("a", "1", 1, 101, source.read)
    assert source.num_reads == num_reads + 1


def test_all_who_write_share_one_bound(tmp_path: Path) -> None:
    """Each writes a little, less than anything that it would notice by itself."""
    for writer in range(80):
        cache = RangeCache(str(tmp_path) + "/." * writer, 6_400)
        cache.fetch(f"s3://b/{writer}", "1", 0, 99, lambda: bytes(99))
        assert held_bytes(tmp_path) <= 6_400


def test_what_killed_writers_left_counts_and_goes(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path), 2_000)
    old, young = tmp_path / ".a.0.tmp", tmp_path / ".b.0.tmp"
    for file in (old, young):
        file.write_bytes(bytes(900))
    os.utime(old, (0, 0))
    for number in range(5):
        cache.fetch("a", "1", number, 101, source.read)
        assert held_bytes(tmp_path) <= 2_000
    assert not old.exists()
    assert young.exists(), "somebody may be writing it"


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path), 300)
    cache.fetch("a", "1", 0, 101, source.read)
    cache.fetch("a", "1", 0, 400, lambda: bytes(400))
    assert held_bytes(tmp_path) == 101


@pytest.mark.parametrize("left", [b"", b"x" * 50])
def test_a_file_that_is_not_whole_is_read_anew(tmp_path: Path, source: Source, left: bytes) -> None:
    cache = RangeCache(str(tmp_path), 10_000)
    cache.fetch("a", "1", 0, 101, source.read)
    (kept,) = (file for file in tmp_path.iterdir() if file.name != ".size")
    kept.write_bytes(left)  # what an unclean end of the node leaves
    assert [cache.fetch("a", "1", 0, 101, source.read) for _ in range(2)] == [b"%0101d" % 2] * 2


def test_a_range_that_the_object_cuts_short_is_handed_on(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path), 10_000)
    assert [len(cache.fetch("a", "1", 0, 150, source.read)) for _ in range(2)] == [101, 101]
    assert source.num_reads == 2
    assert not list(tmp_path.iterdir())


def test_a_count_that_does_not_read_is_made_anew(tmp_path: Path, source: Source) -> None:
    cache = RangeCache(str(tmp_path), 10_000)
    cache.fetch("a", "1", 0, 101, source.read)
    (tmp_path / ".size").write_bytes(bytes(3))
    cache.fetch("a", "1", 1, 101, source.read)
    assert int((tmp_path / ".size").read_bytes()) == held_bytes(tmp_path) == 202
