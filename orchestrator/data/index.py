"""The index of a data set: which shards it has, how many samples each holds and where its chunks begin.

Made once by ``index_dataset`` and kept beside the shards in ``_orchestrator/index.parquet``, one row per shard.
Owns what counts as a shard and when an index is stale; the formats themselves are ``webdataset.py`` and
``parquet.py``.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.parquet import scan_parquet
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.data.webdataset import scan_tar
from orchestrator.errors import DatasetError
from orchestrator.storage.store import ObjectInfo, ObjectNotFoundError, Store

logger = logging.getLogger(__name__)

ADDED_FOLDER = "_orchestrator"
"""Beside the shards: what we add to a data set."""
INDEX_PATH = f"{ADDED_FOLDER}/index.parquet"

Format = Literal["webdataset", "parquet"]

_VERSION = b"1"
_SCAN_THREADS = 8
_MAX_NAMED = 5  # shards in one message
_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "size_bytes": pa.int64(),
        "etag": pa.string(),
        "num_samples": pa.int64(),
        "boundaries": pa.list_(pa.int64()),
        "problems": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class DatasetIndex:
    """All shards of a data set, by path."""

    uri: str
    """Where it was made: etags mean something there only."""
    format: Format
    shards: tuple[ShardRow, ...]

    @property
    def num_samples(self) -> int:
        """Whole samples over all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def problems(self) -> list[str]:
        """What is wrong, shard by shard, in words."""
        return [f"{shard.path}: {problem}" for shard in self.shards for problem in shard.problems]

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of paths, sizes and sample counts: the same on disk and in a bucket."""
        content = hashlib.sha256()
        for shard in self.shards:
            content.update(f"{shard.path}\0{shard.size_bytes}\0{shard.num_samples}\n".encode())
        return content.hexdigest()


def index_dataset(store: Store, progress: Callable[[int, int], None] | None = None) -> DatasetIndex:
    """Look into every shard of the folder; nothing is written.

    Args:
        progress: called with (shards done, shards in all).

    Raises:
        DatasetError: no shards, or none with a whole sample.
        ShardReadError: reading failed after its retries.
    """
    file_format, found = _find_shards(store)
    scan = scan_tar if file_format == "webdataset" else scan_parquet
    shards = []
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        for shard in pool.map(partial(scan, store), found):
            shards.append(shard)
            if progress is not None:
                progress(len(shards), len(found))
    index = DatasetIndex(store.uri, file_format, tuple(shards))
    if index.num_samples == 0:
        raise DatasetError(f"{store.uri} has shards, but no whole sample in them: {_named(index.problems)}")
    if index.problems:
        logger.warning("%s: %s", store.uri, _named(index.problems))
    return index


def save_index(store: Store, index: DatasetIndex) -> None:
    """Write the index beside its shards."""
    columns = {name: [getattr(shard, name) for shard in index.shards] for name in _SCHEMA.names}
    metadata = {
        "version": _VERSION,
        "uri": index.uri,
        "format": index.format,
        "chunk_samples": str(CHUNK_SAMPLES),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), sink, compression="zstd")
    store.write_bytes(INDEX_PATH, sink.getvalue().to_pybytes())


def load_index(store: Store, verify: bool = True) -> DatasetIndex | None:
    """The index beside the shards; None when there is none.

    Args:
        verify: compare it with a listing of the shards.

    Raises DatasetError when it cannot be read or does not match the shards (any more).
    """
    try:
        data = store.read_bytes(INDEX_PATH)
    except ObjectNotFoundError:
        return None
    try:
        index = _parse(data)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{store.uri}/{INDEX_PATH} is not an index of this version ({error}); {_repair(store)}"
        ) from error
    if verify:
        changes = list(_changes(store, index))
        if changes:
            raise DatasetError(f"{store.uri} is not what its index says: {_named(changes)}; {_repair(store)}")
    return index


def _find_shards(store: Store) -> tuple[Format, list[ObjectInfo]]:
    """Tar shards if there are any, else Parquet files (beside tars they hold what img2dataset noted)."""
    objects = [info for info in store.list() if not info.path.startswith(f"{ADDED_FOLDER}/")]
    if tars := [info for info in objects if info.path.endswith(".tar")]:
        return "webdataset", tars
    if files := [info for info in objects if info.path.endswith(".parquet")]:
        return "parquet", files
    endings = Counter(info.path.rpartition(".")[2] for info in objects).most_common(3)
    instead = ", ".join(f"{number} of .{ending}" for ending, number in endings) or "nothing at all"
    raise DatasetError(f"{store.uri} holds no shards: looked for *.tar and *.parquet in it and below, found {instead}")


def _parse(data: bytes) -> DatasetIndex:
    table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA)
    metadata = pq.read_schema(pa.BufferReader(data)).metadata
    if metadata[b"version"] != _VERSION or int(metadata[b"chunk_samples"]) != CHUNK_SAMPLES:
        raise ValueError(f"version {metadata[b'version'].decode()}, chunks of {metadata[b'chunk_samples'].decode()}")
    shards = tuple(
        ShardRow(**{**row, "boundaries": tuple(row["boundaries"]), "problems": tuple(row["problems"])})
        for row in table.to_pylist()
    )
    file_format: Format = "webdataset" if metadata[b"format"] == b"webdataset" else "parquet"
    return DatasetIndex(metadata[b"uri"].decode(), file_format, shards)


def _changes(store: Store, index: DatasetIndex) -> Iterator[str]:
    """What differs between the index and the shards that lie there."""
    _, objects = _find_shards(store)
    present = {info.path: info for info in objects}
    for shard in index.shards:
        info = present.pop(shard.path, None)
        if info is None:
            yield f"{shard.path} is gone"
        elif info.size_bytes != shard.size_bytes:
            yield f"{shard.path} has {info.size_bytes:,} bytes instead of {shard.size_bytes:,}"
        elif store.uri == index.uri and info.etag and shard.etag and info.etag != shard.etag:
            yield f"{shard.path} was written again"
    yield from (f"{path} is new" for path in present)


def _named(messages: list[str]) -> str:
    more = f"; and {len(messages) - _MAX_NAMED} more" if len(messages) > _MAX_NAMED else ""
    return "; ".join(messages[:_MAX_NAMED]) + more


def _repair(store: Store) -> str:
    return f"run: orchestrator data index {store.uri}"
