"""Reading shards of either format, by the ending of their names."""

from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain

from orchestrator.data.parquet import read_parquet_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import ShardRow
from orchestrator.data.webdataset import read_tar_chunk
from orchestrator.errors import DatasetError
from orchestrator.storage.ahead import map_ahead
from orchestrator.storage.store import Store

_CHUNKS_AHEAD = 4  # ranged reads wait on the storage, not on a core


def read_chunk(store: Store, shard: ShardRow, chunk: int, fields: Collection[str] | None = None) -> list[RawSample]:
    """The samples of one chunk, ``shard.chunk_range(chunk)``, in memory and in order.

    Args:
        fields: extensions or columns to keep; None: all.

    Raises:
        ShardReadError: reading failed after its retries.
        ShardDamagedError: the shard is gone, shorter than its index says, or does not parse.
        DatasetError: the shard has no chunk table yet, or a column of ``fields`` holds lists or the like.
    """
    if not shard.has_chunk_table:
        raise DatasetError(
            f"{store.uri}/{shard.path} has no chunk table: its samples were counted by _stats.json alone; "
            f"run: orchestrator data index --chunks {store.uri}"
        )
    read = read_parquet_chunk if shard.path.endswith(".parquet") else read_tar_chunk
    return read(store, shard, chunk, fields)


def read_shard(store: Store, shard: ShardRow, fields: Collection[str] | None = None) -> Iterator[RawSample]:
    """All samples of a shard in order; a few chunks are read ahead. Arguments and errors as of ``read_chunk``."""
    read = partial(read_chunk, store, shard, fields=fields)
    chunks = range(shard.num_chunks)
    yield from chain.from_iterable(map_ahead(read, chunks, threads=_CHUNKS_AHEAD, ahead=_CHUNKS_AHEAD))
