"""The quarantine: every sample that a run had to skip, by shard, index and reason, as files beside the run.

One Parquet file for the stretch of steps up to each checkpoint that met bad samples. A run that goes on from a
checkpoint drops the files of later steps first: these steps are done again, and their stretches may end elsewhere.
"""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import columns
from orchestrator.data.dataset_order import ChunkTable
from orchestrator.data.ledger_events import Events
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.storage.store import Store

QUARANTINE = "quarantine"


def write_quarantine(
    store: Store, step: int, skips: Events, tables: Sequence[ChunkTable], shards: Sequence[Sequence[str]]
) -> str | None:
    """Write the list of the stretch that ends at ``step``; returns its URI, or None where nothing was skipped.

    Args:
        store: the run's folder.
        shards: URIs of the shards of each data set.
    """
    if not len(skips):
        return None
    rows = []
    for key, chunk, within, kind in zip(*(getattr(skips, name).tolist() for name in Events.names()), strict=True):
        dataset, table = key >> 32, tables[key >> 32]
        shard = table.shard_of(chunk)
        index = (chunk - int(table.first_chunk[shard])) * CHUNK_SAMPLES + within
        reason = columns.SKIP_REASONS[kind]
        rows.append({"shard": shards[dataset][shard], "index": index, "reason": reason, "epoch": key & 0xFFFFFFFF})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    path = _path(step)
    store.write_bytes(path, sink.getvalue())
    return f"{store.uri}/{path}"


def read_quarantine(store: Store) -> list[dict[str, Any]]:
    """All that a run has skipped so far, as ``write_quarantine`` wrote it; rows of shard, index, reason and epoch.

    Args:
        store: the run's folder.
    """
    files = (store.read_bytes(info.path) for info in store.list(QUARANTINE))
    return [row for data in files for row in pq.read_table(io.BytesIO(data)).to_pylist()]


def drop_quarantine_after(store: Store, step: int) -> None:
    """Remove the lists of stretches that end behind ``step``."""
    for info in store.list(QUARANTINE):
        if info.path > _path(step):
            store.delete(info.path)


def _path(step: int) -> str:
    return f"{QUARANTINE}/step-{step:08d}.parquet"
