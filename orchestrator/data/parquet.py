"""Parquet shards: a row is a sample, a column what a tar member would be.

A chunk is a slice of rows; reading it costs the whole row groups it touches, so files with row groups of about one
chunk read fastest. Large row groups are said to be a problem when the shard is indexed.
"""

from collections.abc import Callable, Collection
from itertools import accumulate
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.parquet_columns import choose_columns, to_samples
from orchestrator.data.retry import retried
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import ShardDamagedError, ShardReadError
from orchestrator.storage.store import ObjectChangedError, ObjectInfo, ObjectNotFoundError, Store

T = TypeVar("T")

MAX_ROW_GROUP_CHUNKS = 16


def scan_parquet(store: Store, info: ObjectInfo) -> ShardRow:
    """The index row of a Parquet shard, from its footer; what is wrong with it stands in ``problems``.

    Raises ShardReadError when reading fails after its retries.
    """

    try:
        metadata = read_footer(store, info.path)
    except pa.ArrowInvalid as error:
        return ShardRow(info.path, info.size_bytes, info.etag, 0, (), (f"not a whole Parquet file: {error}",))
    return to_row(info, metadata)


def read_footer(store: Store, path: str) -> pq.FileMetaData:
    """Schema and row groups of a Parquet file.

    Raises:
        ShardReadError: reading failed after its retries.
        pyarrow.ArrowInvalid: the file is not whole.
    """

    return retried(lambda: read_file(store, path, lambda file: file.metadata))


def read_columns(store: Store, path: str, names: Collection[str]) -> pa.Table:
    """Those of the columns ``names`` that a Parquet file has, all rows; raises as ``read_footer``."""

    def read(file: pq.ParquetFile) -> pa.Table:
        return file.read(columns=[name for name in file.schema_arrow.names if name in names])

    return retried(lambda: read_file(store, path, read))


def read_file(store: Store, path: str, read: Callable[[pq.ParquetFile], T]) -> T:
    """What ``read`` makes of a Parquet file; tried once.

    Raises:
        ShardReadError: input failed; another attempt may help.
        pyarrow.ArrowInvalid: the file is not whole.
        ObjectNotFoundError: there is none.
    """

    def open_and_read() -> T:
        with store.open_input(path) as file:
            return read(pq.ParquetFile(file, page_checksum_verification=True))  # of pages that have one

    return _explained(open_and_read, f"{store.uri}/{path}")


def to_row(info: ObjectInfo, metadata: pq.FileMetaData) -> ShardRow:
    """The index row of a Parquet shard with this footer."""
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
    """See ``readers.read_chunk``; for what becomes of a column ``parquet_columns.py``."""
    start, stop = shard.chunk_range(chunk)
    groups = [
        group
        for group, (low, high) in enumerate(zip(shard.boundaries, shard.boundaries[1:], strict=False))
        if low < stop and start < high
    ]

    def read(file: pq.ParquetFile) -> pa.Table:
        columns = choose_columns(file.schema_arrow, fields, f"{store.uri}/{shard.path}")
        return file.read_row_groups(groups, columns=columns)

    try:
        table = retried(lambda: read_file(store, shard.path, read))
    except (pa.ArrowInvalid, IndexError, ObjectNotFoundError, ObjectChangedError) as error:
        raise _damaged(store, shard, start, str(error)) from error
    # Asked after reading: Arrow's file asks for no version, and a shard may be overwritten meanwhile.
    info = store.stat(shard.path) if shard.etag else None
    if info is not None and info.etag != shard.etag:
        raise _damaged(store, shard, start, "the shard was written again since it was indexed")
    samples = to_samples(table.slice(start - shard.boundaries[groups[0]], stop - start), start)
    if len(samples) != stop - start:
        raise _damaged(store, shard, start, f"{len(samples)} rows found, its index says {stop - start}")
    return samples


def _explained(read: Callable[[], T], where: str) -> T:
    """Arrow's input errors as ours, so that they are retried; its complaints about content are all ArrowInvalid."""
    try:
        return read()
    except (pa.ArrowException, UnicodeDecodeError) as error:  # damage may look like a feature that Arrow has not
        raise pa.ArrowInvalid(str(error)) from error
    except OSError as error:
        # Arrow calls a page that does not decompress an OSError too; those of the system and of S3 can be told.
        if error.errno is None and "AWS Error" not in str(error):
            raise pa.ArrowInvalid(str(error)) from error
        raise ShardReadError(f"{where}: {error}") from error


def _damaged(store: Store, shard: ShardRow, row: int, reason: str) -> ShardDamagedError:
    return ShardDamagedError(
        f"shard {store.uri}/{shard.path}, row {row}: {reason}. Restore the shard, or index the data set again with "
        f"'orchestrator data index {store.uri}'"
    )
