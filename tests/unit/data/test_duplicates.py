import json
import random
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data import duplicates
from orchestrator.data.audit import DIGEST_BYTES
from orchestrator.data.duplicates import DuplicateFinder
from orchestrator.data.problems import Problem
from orchestrator.data.verify_shard import ShardFindings


def findings_of(keys: list[str], digests: list[int]) -> ShardFindings:
    packed = zlib.compress(json.dumps(keys).encode())
    content = b"".join(digest.to_bytes(DIGEST_BYTES, "big") for digest in digests)
    return ShardFindings((), None, len(keys), content, packed)


def test_every_repeat_names_the_first_of_its_kind_and_zeros_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    monkeypatch.setattr(duplicates, "_HELD_ROWS", 50)
    finder, seen, expected = DuplicateFinder(), dict[int, str](), []
    for shard in range(100):
        digests = [draw.choice((0, draw.randrange(300), draw.randrange(2**127))) for _ in range(draw.randrange(20))]
        keys = [f"{shard}-{number}" for number in range(len(digests))]
        finder.add(f"{shard}.tar", findings_of(keys, digests))
        for key, digest in zip(keys, digests, strict=True):
            if digest in seen:
                detail = f"the same as {seen[digest]} in {seen[digest].partition('-')[0]}.tar"
                expected.append(Problem(f"{shard}.tar", "sample_duplicate", key, detail))
            elif digest:
                seen[digest] = key
    assert len(expected) > 100
    with finder:
        assert list(finder.find()) == expected


def test_no_samples_have_no_duplicates() -> None:
    with DuplicateFinder() as finder:
        finder.add("a.tar", findings_of([], []))
        assert list(finder.find()) == []
    with DuplicateFinder() as finder:
        assert list(finder.find()) == []


def test_memory_stays_far_below_the_digests_and_no_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(duplicates, "_HELD_ROWS", 2**14)
    digests = np.random.default_rng(0).bytes(DIGEST_BYTES * 10_000)
    packed = zlib.compress(json.dumps([f"{number:04}" for number in range(10_000)]).encode())
    tracemalloc.start()
    try:
        with DuplicateFinder() as finder:
            for shard in range(64):  # the same ten thousand samples
                own = digests if shard in (3, 60) else np.random.default_rng(1 + shard).bytes(len(digests))
                finder.add(f"{shard}.tar", ShardFindings((), None, 10_000, own, packed))
            found = finder.find()
            assert next(found) == Problem("60.tar", "sample_duplicate", "0000", "the same as 0000 in 3.tar")
            assert sum(1 for _ in found) == 9_999
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 10_000 * DIGEST_BYTES / 2
    assert list(tmp_path.iterdir()) == []
