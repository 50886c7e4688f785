"""What a run skipped, by the names that lists of samples know: a deny list for the next run."""

import io
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.index import load_index
from orchestrator.data.metadata import read_metadata, sidecar_path
from orchestrator.data.quarantine import read_quarantine
from orchestrator.data.readers import read_chunk
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import DatasetError, PlanError
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.selection import SHARD_KEY
from orchestrator.storage.store import Store, open_store

_SHARDS_AT_ONCE = 8

Row = dict[str, Any]


def write_quarantine_list(run_uri: str, cluster: ClusterSpec, destination: str, list_by: str) -> int:
    """Write the samples that a run skipped to a Parquet file, a row for each time; returns the number of rows.

    Columns: ``list_by``, shard (URI), index, epoch, reason. Only the shards that are named there are read.

    Args:
        destination: URI or path of a .parquet file.
        list_by: the sample's ``key``, or a metadata column such as ``uid``: what ``select.list_by`` of a job says.

    Raises:
        PlanError: another ending.
        RunNotFoundError: there is no such run.
        DatasetError: shards that were indexed anew without the skipped samples, or that lack the column.
        ShardReadError, ShardDamagedError: a shard that does not read.
    """
    if not destination.endswith(".parquet"):
        raise PlanError(f"{destination}: lists of samples are written as .parquet; name such a file")
    folder, _, name = destination.rpartition("/")
    place = open_store(folder or ("/" if destination.startswith("/") else "."), cluster.storage.s3)
    store, plan, _ = open_run(run_uri, cluster.storage.s3)
    left: dict[str, list[Row]] = defaultdict(list)
    for row in read_quarantine(store).to_pylist():
        left[row["shard"]].append(row)
    named: list[Row] = []
    for uri in dict.fromkeys(source.shards.uri for source in plan.data.sources):
        if left:
            named += _take_named(open_store(uri, plan.s3), left, list_by)
    if left:
        raise DatasetError(f"the index has no shard {next(iter(left))} any more, of which samples were skipped")
    names = pa.schema([(name, pa.string()) for name in (list_by, "shard", "reason")])
    table = pa.Table.from_pylist(named, pa.schema([*names, ("index", pa.int64()), ("epoch", pa.int64())]))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    place.write_bytes(name, sink.getvalue())
    return len(named)


def _take_named(store: Store, left: dict[str, list[Row]], list_by: str) -> list[Row]:
    """The rows of the shards in ``store``, each with the name of its sample; they are not left any more."""
    index = load_index(store)
    if index is None:
        raise DatasetError(f"{store.uri} has no index any more; run: orchestrator data index {store.uri}")
    found = [at for at, path in enumerate(index.shards.paths) if f"{store.uri}/{path}" in left]
    work = [(shard, left.pop(f"{store.uri}/{shard.path}")) for shard in map(index.shards.__getitem__, found)]
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        parts = pool.map(lambda one: _name_samples(store, one[0], one[1], list_by), work)
        return [row for part in parts for row in part]


def _name_samples(store: Store, shard: ShardRow, skipped: Sequence[Row], list_by: str) -> list[Row]:
    if list_by != SHARD_KEY:
        has_sidecar = store.stat(sidecar_path(shard)) is not None
        column = read_metadata(store, shard, [list_by], has_sidecar)[list_by].to_pylist()
        return [row | {list_by: column[row["index"]]} for row in skipped]
    chunks = {row["index"] // CHUNK_SAMPLES for row in skipped}
    keys = {sample.index: sample.key for chunk in chunks for sample in read_chunk(store, shard, chunk, fields=())}
    return [row | {SHARD_KEY: keys[row["index"]]} for row in skipped]
