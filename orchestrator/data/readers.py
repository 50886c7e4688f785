"""Reading shards of either format, by the ending of their names."""

from collections.abc import Collection

from orchestrator.data.parquet import read_parquet_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import ShardRow
from orchestrator.data.webdataset import read_tar_chunk
from orchestrator.errors import DatasetError
from orchestrator.storage.store import Store


def read_chunk(store: Store, shard: ShardRow, chunk: int, fields: Collection[str] | None = None) -> list[RawSample]:
    """The samples of one chunk, ``shard.chunk_range(chunk)``, in memory and in order.

    Args:
        fields: extensions or columns to keep; None: all.

    Raises:
        ShardReadError: reading failed after its retries.
        ShardDamagedError: the shard is gone, shorter than its index says, or does not parse.
        DatasetError: the shard has no chunk table yet.
    """
    if not shard.has_chunk_table:
        raise DatasetError(
            f"{store.uri}/{shard.path} has no chunk table: its samples were counted by _stats.json alone; "
            f"run: orchestrator data index --chunks {store.uri}"
        )
    read = read_parquet_chunk if shard.path.endswith(".parquet") else read_tar_chunk
    return read(store, shard, chunk, fields)
