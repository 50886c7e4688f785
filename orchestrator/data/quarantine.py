"""The quarantine: every bad sample that a run had to skip, by shard, index and reason, as files beside the run.

One Parquet file for the stretch of steps up to each checkpoint that met bad samples, and up to the step at which too
many of them ended the run. A run that goes on from a checkpoint drops the files of later steps first: these steps are
done again, and their stretches may end elsewhere.
"""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import columns
from orchestrator.data.dataset_order import ChunkTable
from orchestrator.data.ledger_events import Events
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.storage.store import Store

QUARANTINE = "quarantine"

_SCHEMA = pa.schema({"shard": pa.string(), "index": pa.int64(), "reason": pa.string(), "epoch": pa.int64()})


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
    shard, index = np.zeros(len(skips), np.int64), np.zeros(len(skips), np.int64)
    names: list[str] = []
    for number, table in enumerate(tables):
        chosen = skips.key >> 32 == number
        chunk = skips.chunk[chosen]
        of_table = table.shards_of(chunk)
        index[chosen] = (chunk - table.first_chunk[of_table]) * CHUNK_SAMPLES + skips.within[chosen]
        used, place = np.unique(of_table, return_inverse=True)
        shard[chosen] = len(names) + place
        names += [shards[number][at] for at in used.tolist()]
    rows = {
        "shard": pa.DictionaryArray.from_arrays(shard, names),
        "index": index,
        "reason": pa.DictionaryArray.from_arrays(skips.kind, list(columns.SKIP_REASONS)),
        "epoch": skips.key & 0xFFFFFFFF,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink, compression="zstd")
    store.write_bytes(_path(step), sink.getvalue())
    return f"{store.uri}/{_path(step)}"


def read_quarantine(store: Store) -> pa.Table:
    """All that a run has skipped so far, as ``write_quarantine`` wrote it: shard, index, reason and epoch.

    Args:
        store: the run's folder.
    """
    files = (store.read_bytes(info.path) for info in store.list(QUARANTINE))
    tables = [pq.read_table(io.BytesIO(data)).cast(_SCHEMA) for data in files]
    return pa.concat_tables([_SCHEMA.empty_table(), *tables])


def drop_quarantine_after(store: Store, step: int) -> None:
    """Remove the lists of stretches that end behind ``step``."""
    for info in store.list(QUARANTINE):
        if info.path > _path(step):
            store.delete(info.path)


def _path(step: int) -> str:
    return f"{QUARANTINE}/step-{step:08d}.parquet"
