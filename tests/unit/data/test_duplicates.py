import json
import random
import zlib

from orchestrator.data.audit import DIGEST_BYTES
from orchestrator.data.duplicates import DuplicateFinder
from orchestrator.data.problems import Problem
from orchestrator.data.verify_shard import ShardFindings


def findings_of(keys: list[str], digests: list[int]) -> ShardFindings:
    packed = zlib.compress(json.dumps(keys).encode())
    content = b"".join(digest.to_bytes(DIGEST_BYTES, "big") for digest in digests)
    return ShardFindings((), None, len(keys), content, packed)


def test_every_repeat_names_the_first_of_its_kind_and_zeros_are_none() -> None:
    draw = random.Random(0)
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
    assert list(finder.find()) == expected


def test_no_samples_have_no_duplicates() -> None:
    finder = DuplicateFinder()
    assert list(finder.find()) == []
    finder.add("a.tar", findings_of([], []))
    assert list(finder.find()) == []
