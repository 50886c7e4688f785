"""Parquet shards: a row is a sample, a column what a tar member would be.

A chunk is a slice of rows; reading it costs the whole row groups it touches, so files with row groups of about one
chunk read fastest. Large row groups are said to be a problem when the shard is indexed.
"""

from collections.abc import Callable, Collection
from itertools import accumulate
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.retry import retried
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import ShardDamagedError, ShardReadError
from orchestrator.storage.store import ObjectInfo, ObjectNotFoundError, Store

T = TypeVar("T")

MAX_ROW_GROUP_CHUNKS = 16


def scan_parquet(store: Store, info: ObjectInfo) -> ShardRow:
    """The index row of a Parquet shard, from its footer; what is wrong with it stands in ``problems``.

    Raises ShardReadError when reading fails after its retries.
    """

    def read() -> pq.FileMetaData:
        with store.open_input(info.path) as file:
            return pq.ParquetFile(file).metadata

    try:
        metadata = retried(lambda: _explained(read, f"{store.uri}/{info.path}"))
    except pa.ArrowInvalid as error:
        return ShardRow(info.path, info.size_bytes, info.etag, 0, (), (f"not a whole Parquet file: {error}",))
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    problems = []
    if not sum(sizes):
        problems.append("it holds no rows")
    if max(sizes, default=0) > MAX_ROW_GROUP_CHUNKS * CHUNK_SAMPLES:
        problems.append(
            f"a row group of {max(sizes)} rows, read whole for every {CHUNK_SAMPLES} of them; "
            f"write the file again with row groups of {CHUNK_SAMPLES}"
        )
    boundaries = tuple(accumulate(sizes, initial=0))
    return ShardRow(info.path, info.size_bytes, info.etag, boundaries[-1], boundaries, tuple(problems))


def read_parquet_chunk(store: Store, shard: ShardRow, chunk: int, fields: Collection[str] | None) -> list[RawSample]:
    """See ``readers.read_chunk``. Text columns come as UTF-8, numbers as their decimal text, nulls not at all."""
    start, stop = shard.chunk_range(chunk)
    groups = [
        group
        for group, (low, high) in enumerate(zip(shard.boundaries, shard.boundaries[1:], strict=False))
        if low < stop and start < high
    ]

    def read() -> pa.Table:
        with store.open_input(shard.path) as file:
            source = pq.ParquetFile(file)
            columns = [name for name in source.schema_arrow.names if fields is None or name in fields]
            return source.read_row_groups(groups, columns=columns)

    where = f"{store.uri}/{shard.path}"
    try:
        table = retried(lambda: _explained(read, where))
    except (pa.ArrowInvalid, IndexError, ObjectNotFoundError) as error:
        raise ShardDamagedError(
            f"shard {where}, row {start}: {error}. Restore it, or run 'orchestrator data index {store.uri}'"
        ) from error
    rows = table.slice(start - shard.boundaries[groups[0]], stop - start).to_pylist()
    if len(rows) != stop - start:
        raise ShardDamagedError(
            f"shard {where}, row {start}: {len(rows)} rows found, its index says {stop - start}; "
            f"run 'orchestrator data index {store.uri}'"
        )
    return [
        RawSample(index, str(index), {name: _to_bytes(value) for name, value in row.items() if value is not None})
        for index, row in enumerate(rows, start)
    ]


def _explained(read: Callable[[], T], where: str) -> T:
    """Arrow's input errors as ours, so that they are retried; its complaints about content pass through."""
    try:
        return read()
    except OSError as error:
        raise ShardReadError(f"{where}: {error}") from error


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
