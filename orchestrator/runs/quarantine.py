"""What a run skipped, by the names that lists of samples know: a deny list for the next run."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.index import load_index
from orchestrator.data.metadata import key_array, read_metadata, sidecar_path
from orchestrator.data.quarantine import read_quarantine
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample_list import SampleList, open_sample_list
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import DatasetError, PlanError
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.selection import SHARD_KEY
from orchestrator.storage.store import Store, open_object, open_store

_SHARDS_AT_ONCE = 8
_COLUMNS = ("shard", "index", "epoch", "reason")


@dataclass(frozen=True)
class QuarantineList:
    """A list that was written."""

    num_rows: int
    notes: tuple[str, ...] = ()
    """Where it denies more or less than what was skipped."""


def write_quarantine_list(run_uri: str, cluster: ClusterSpec, destination: str, list_by: str) -> QuarantineList:
    """Write the samples that a run skipped to a Parquet file, a row for each time.

    Columns: ``list_by``, shard (URI), index, epoch, reason. Read are the shards that are named there, and of each data
    set one more: where its samples are on the list too, a note says so.

    Args:
        destination: URI or path of a .parquet file.
        list_by: the sample's ``key``, or a metadata column such as ``uid``: what ``select.list_by`` of a job says.

    Raises:
        PlanError: another ending.
        RunNotFoundError: there is no such run.
        DatasetError: shards that were indexed anew without the skipped samples, or that lack the column; a column that
            no list can hold.
        ShardReadError, ShardDamagedError: a shard that does not read.
    """
    if not destination.endswith(".parquet"):
        raise PlanError(f"{destination}: lists of samples are written as .parquet; name such a file")
    place, name = open_object(destination, cluster.storage.s3)
    store, plan, _ = open_run(run_uri, cluster.storage.s3)
    left, sources = read_quarantine(store), list[_Source]()
    for uri in dict.fromkeys(source.shards.uri for source in plan.data.sources):
        if len(left):
            sources.append(_Source(open_store(uri, plan.s3), left, list_by))
            left = sources[-1].left
    if len(left):
        raise DatasetError(f"the index has no shard {left['shard'][0]} any more, of which samples were skipped")
    table = _concatenate([part for source in sources for part in source.name_samples()], list_by)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    place.write_bytes(name, sink.getvalue())
    with open_sample_list(place, name, list_by) as listed:
        notes = [note for source in sources for note in source.notes(listed)]
    if unnamed := table[list_by].null_count:
        notes.append(f"{unnamed:,} of them have no {list_by}: the list does not deny them")
    return QuarantineList(len(table), tuple(notes))


class _Source:
    """A data set of the run, and the rows of the quarantine that are of its shards."""

    def __init__(self, store: Store, rows: pa.Table, list_by: str) -> None:
        index = load_index(store)
        if index is None:
            raise DatasetError(f"{store.uri} has no index any more; run: orchestrator data index {store.uri}")
        self._store, self._shards, self._list_by = store, index.shards, list_by
        uris = pa.array([f"{store.uri}/{path}" for path in index.shards.paths], pa.string())
        place = pc.index_in(rows["shard"], uris)
        self.left = rows.filter(place.is_null())
        """The rows of other data sets."""
        own = rows.append_column("place", place).filter(place.is_valid()).sort_by("place")
        places, starts = np.unique(own["place"].to_numpy(), return_index=True)
        slices = (own.slice(start, stop - start) for start, stop in pairwise([*starts.tolist(), len(own)]))
        self._rows = dict(zip(places.tolist(), slices, strict=True))

    def name_samples(self) -> list[pa.Table]:
        """The rows of each shard, with the names of their samples."""
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            return list(pool.map(self._name_rows, self._rows))

    def notes(self, listed: SampleList) -> list[str]:
        """Whether the list denies samples that were not skipped, as the largest of the other shards shows.

        Keys that begin anew in every shard do, and columns whose values come again.
        """
        if not self._rows:
            return []
        skipped = np.isin(np.arange(len(self._shards)), list(self._rows))
        others = self._shards.has_chunk_table & (self._shards.num_samples > 0) & ~skipped
        at = int(np.argmax(np.where(others if others.any() else skipped, self._shards.num_samples, 0)))
        shard = self._shards[at]
        where = f"{self._store.uri}/{shard.path}"
        denied = listed.contains(self._read_column(shard), f"{where}: {self._list_by!r}")
        if at in self._rows:
            denied[self._rows[at]["index"].to_numpy()] = False
        if not denied.any():
            return []
        return [
            f"the list denies more than was skipped: {denied.sum():,} of {shard.num_samples:,} samples of {where} are "
            f"good and share their {self._list_by} with a skipped one; name samples by a column that no two share "
            f"(--list-by uid); 'orchestrator plan' counts what a job leaves out"
        ]

    def _name_rows(self, place: int) -> pa.Table:
        rows, shard = self._rows[place], self._shards[place]
        index = rows["index"].to_numpy()
        if index.max() >= shard.num_samples:
            raise DatasetError(
                f"{self._store.uri}/{shard.path} has {shard.num_samples:,} samples, and sample {index.max():,} of it "
                f"was skipped: it is not the shard that the run read; restore that one"
            )
        return pa.table(
            {self._list_by: self._names(shard, index)}
            | {name: rows[name] for name in _COLUMNS if name != self._list_by}
        )

    def _names(self, shard: ShardRow, index: npt.NDArray[np.int64]) -> pa.Array:
        if self._list_by != SHARD_KEY or shard.path.endswith(".parquet"):
            return self._read_column(shard).take(pa.array(index))
        chunks = np.unique(index // CHUNK_SAMPLES).tolist()  # of a tar, whose headers lie between its images
        samples = [sample for chunk in chunks for sample in read_chunk(self._store, shard, chunk, fields=())]
        keys = {sample.index: sample.key for sample in samples}
        return key_array([keys[at] for at in index.tolist()])

    def _read_column(self, shard: ShardRow) -> pa.Array:
        has_sidecar = self._store.stat(sidecar_path(shard)) is not None
        column = read_metadata(self._store, shard, [self._list_by], has_sidecar)[self._list_by]
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _concatenate(parts: Sequence[pa.Table], list_by: str) -> pa.Table:
    if not parts:
        return pa.table({name: pa.array([], pa.string()) for name in dict.fromkeys((list_by, *_COLUMNS))})
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise DatasetError(
            f"{list_by!r} is not of one type in all shards ({error}); name samples by another column: --list-by"
        ) from error
