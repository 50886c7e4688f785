"""Tar shards as names and bytes, for tests that make other shards of them."""

import tarfile
from collections.abc import Iterator
from pathlib import Path


def read_members(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a shard's members, in their order."""
    with tarfile.open(shard) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None, f"{shard}: {member.name} is no file"
            yield member.name, content.read()
