"""The index of a data set: which shards it has, how many samples each holds and where its chunks begin.

Made once (``indexing.py``) and kept beside the shards in ``_orchestrator/index.parquet``, one row per shard.
Owns what counts as a shard and when an index is stale; the formats themselves are ``webdataset.py`` and
``parquet.py``.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.problems import Problem
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.data.shard_table import SHARD_SCHEMA, ShardTable
from orchestrator.errors import DatasetError
from orchestrator.storage.store import ObjectInfo, ObjectNotFoundError, Store

ADDED_FOLDER = "_orchestrator"
"""Beside the shards: what we add to a data set."""
INDEX_PATH = f"{ADDED_FOLDER}/index.parquet"

Format = Literal["webdataset", "parquet"]

_VERSION = b"1"
_MAX_NAMED = 5  # shards in one message


@dataclass(frozen=True)
class DatasetIndex:
    """All shards of a data set, by path."""

    uri: str
    """Where it was made: etags mean something there only, and rows have none elsewhere."""
    format: Format
    shards: ShardTable

    @classmethod
    def from_rows(cls, uri: str, file_format: Format, rows: Iterable[ShardRow]) -> "DatasetIndex":
        """An index of these shards."""
        return cls(uri, file_format, ShardTable.from_rows(rows))

    @property
    def num_samples(self) -> int:
        """Whole samples over all shards."""
        return int(self.shards.num_samples.sum())

    @property
    def size_bytes(self) -> int:
        """Of all shards."""
        return int(self.shards.size_bytes.sum())

    @property
    def num_counted(self) -> int:
        """Shards without a chunk table: how many samples they hold is known from _stats.json alone."""
        return int((~self.shards.has_chunk_table).sum())

    @property
    def problems(self) -> list[str]:
        """What is wrong, shard by shard, in words."""
        return [f"{path}: {problem}" for path, problem in self.shards.problems()]

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of paths, sizes and sample counts: the same on disk and in a bucket."""
        content = hashlib.sha256()
        columns = (self.shards.paths, self.shards.size_bytes.tolist(), self.shards.num_samples.tolist())
        for path, size_bytes, num_samples in zip(*columns, strict=True):
            content.update(f"{path}\0{size_bytes}\0{num_samples}\n".encode())
        return content.hexdigest()


def require_samples(index: DatasetIndex) -> None:
    """Raises DatasetError when no shard has a whole sample."""
    if index.num_samples == 0:
        raise DatasetError(f"{index.uri} has shards, but no whole sample in them: {name_some(index.problems)}")


def save_index(store: Store, index: DatasetIndex) -> None:
    """Write the index beside its shards."""
    metadata = {
        "version": _VERSION,
        "uri": index.uri,
        "format": index.format,
        "chunk_samples": str(CHUNK_SAMPLES),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(index.shards.table.replace_schema_metadata(metadata), sink, compression="zstd")
    store.write_bytes(INDEX_PATH, sink.getvalue().to_pybytes())


def load_index(store: Store, verify: bool = True, chunk_tables: bool = True) -> DatasetIndex | None:
    """The index beside the shards; None when there is none.

    Args:
        verify: compare it with a listing of the shards.
        chunk_tables: read where chunks begin; without, an order is computed from a fiftieth of the memory, and no shard
            can be read.

    In a copy of the data set its rows come without etags.

    Raises DatasetError when it cannot be read or does not match the shards (any more).
    """
    try:
        data = store.read_bytes(INDEX_PATH)
    except ObjectNotFoundError:
        return None
    try:
        index = _parse(data, chunk_tables)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{store.uri}/{INDEX_PATH} is not an index of this version ({error}); {_repair(store)}"
        ) from error
    if index.uri != store.uri:
        index = replace(index, shards=index.shards.without_etags())
    if verify:
        _, found = find_shards(store.uri, store.list())
        changes = [f"{problem.shard} {problem.detail}" for problem in compare_listing(index, found)]
        if changes:
            raise DatasetError(f"{store.uri} is not what its index says: {name_some(changes)}; {_repair(store)}")
    return index


def find_shards(uri: str, objects: Iterable[ObjectInfo]) -> tuple[Format, list[ObjectInfo]]:
    """Tar shards if there are any, else Parquet files (beside tars they hold what img2dataset noted).

    Raises DatasetError when there are neither, or one has a name that is not UTF-8.
    """
    # At any depth: a data set below this one may have an index of its own.
    objects = [info for info in objects if f"/{ADDED_FOLDER}/" not in f"/{info.path}"]
    if tars := [info for info in objects if info.path.endswith(".tar")]:
        return "webdataset", _require_utf8(uri, tars)
    if files := [info for info in objects if info.path.endswith(".parquet")]:
        return "parquet", _require_utf8(uri, files)
    endings = Counter(info.path.rpartition(".")[2] for info in objects).most_common(3)
    instead = ", ".join(f"{number} of .{ending}" for ending, number in endings) or "nothing at all"
    raise DatasetError(f"{uri} holds no shards: looked for *.tar and *.parquet in it and below, found {instead}")


def _require_utf8(uri: str, shards: list[ObjectInfo]) -> list[ObjectInfo]:
    """The same shards; an index cannot hold other names."""
    paths = (f"{uri}/{info.path}" for info in shards)
    if others := [repr(path) for path in paths if path.encode(errors="ignore").decode() != path]:
        raise DatasetError(f"the name of a shard must be UTF-8, and is not: {name_some(others)}; rename it")
    return shards


def _parse(data: bytes, chunk_tables: bool) -> DatasetIndex:
    names = [name for name in SHARD_SCHEMA.names if chunk_tables or name != "boundaries"]
    table = pq.read_table(pa.BufferReader(data), schema=SHARD_SCHEMA, columns=names)
    if not chunk_tables:
        none = pa.ListArray.from_arrays(np.zeros(len(table) + 1, np.int32), pa.array([], pa.int64()))
        table = table.add_column(SHARD_SCHEMA.get_field_index("boundaries"), SHARD_SCHEMA.field("boundaries"), none)
    metadata = pq.read_schema(pa.BufferReader(data)).metadata
    if metadata[b"version"] != _VERSION or int(metadata[b"chunk_samples"]) != CHUNK_SAMPLES:
        raise ValueError(f"version {metadata[b'version'].decode()}, chunks of {metadata[b'chunk_samples'].decode()}")
    file_format: Format = "webdataset" if metadata[b"format"] == b"webdataset" else "parquet"
    return DatasetIndex(metadata[b"uri"].decode(), file_format, ShardTable(table))


def compare_listing(index: DatasetIndex, found: Iterable[ObjectInfo]) -> Iterator[Problem]:
    """What differs between the index and the shards that lie there, without reading them."""
    present = {info.path: info for info in found}
    columns = (index.shards.paths, index.shards.size_bytes.tolist(), index.shards.etags)
    for path, size_bytes, etag in zip(*columns, strict=True):
        info = present.pop(path, None)
        if info is None:
            yield Problem(path, "shard_missing", None, "is gone")
        elif info.size_bytes != size_bytes:
            yield Problem(path, "size_mismatch", None, f"has {info.size_bytes:,} bytes instead of {size_bytes:,}")
        elif info.etag and etag and info.etag != etag:
            yield Problem(path, "etag_mismatch", None, "was written again")
    yield from (Problem(path, "shard_unindexed", None, "is new") for path in present)


def name_some(messages: list[str]) -> str:
    """The first messages, and how many more there are."""
    more = f"; and {len(messages) - _MAX_NAMED} more" if len(messages) > _MAX_NAMED else ""
    return "; ".join(messages[:_MAX_NAMED]) + more


def _repair(store: Store) -> str:
    return f"run: orchestrator data index {store.uri}"
