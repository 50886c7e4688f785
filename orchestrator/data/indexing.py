"""Making an index: what is read for it, what that costs, and what need not be read.

The row that an earlier index has of the same version of a shard is kept. Of any other shard two things are wanted:

* how many samples it has. img2dataset's ``_stats.json`` tells that of its tars, in one small request; it is all that a
  plan and the order of samples need;
* where its chunks begin, the chunk table. Of a tar only its headers tell, which lie between the images. A request to a
  bucket takes about as long as 8 MiB do, so that a shard of small files is read through in ranges of that size; in a
  folder, pages of 16 KiB around the headers. Of a Parquet file the footer tells.

So an index may count shards without a chunk table. A job's first step adds those of its data sets (a window reads
single chunks of many shards, so that a stream could not do it shard by shard), and so does ``data verify``, which reads
every byte anyway.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TypeVar

from orchestrator.data.index import (
    DatasetIndex,
    Format,
    find_shards,
    name_some,
    require_samples,
)
from orchestrator.data.parquet import scan_parquet
from orchestrator.data.shard import ShardRow
from orchestrator.data.shard_table import ShardTable
from orchestrator.data.stats import StatsDamagedError, read_successes, stats_path
from orchestrator.data.webdataset import scan_tar
from orchestrator.errors import ShardReadError, StorageAccessError
from orchestrator.storage.ahead import map_ahead
from orchestrator.storage.store import ObjectInfo, Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SCAN_THREADS = 8
_SCANS_AHEAD = 8 * _SCAN_THREADS  # one slow shard holds no other up
_PAGE_OBJECTS = 1000  # of a listing
_FOOTER_REQUESTS, _FOOTER_BYTES = 2, 2**16  # as Arrow opens a Parquet file: its size, then its end
_STATS_BYTES = 2**10
_PACE_BYTES_PER_S = 100e6  # of a bucket near by, over all threads
_REQUEST_BYTES = 2**20  # what a bucket gives at that pace in the time of a request, over all threads

OnShard = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""


@dataclass(frozen=True)
class ReadCost:
    """What was or will be asked of a storage."""

    requests: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.requests:,} requests, {self.num_bytes / 1e6:,.1f} MB"


@dataclass
class ReadMeter:
    """Counts over threads what was read."""

    _requests: int = 0
    _num_bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def count(self, requests: int, num_bytes: int) -> None:
        """Add what one thread read."""
        with self._lock:
            self._requests += requests
            self._num_bytes += num_bytes

    @property
    def cost(self) -> ReadCost:
        """So far."""
        return ReadCost(self._requests, self._num_bytes)


@dataclass(frozen=True)
class IndexingPlan:
    """How each shard of a folder gets its row."""

    store: Store
    format: Format
    shards: tuple[ObjectInfo, ...]
    num_listed: int
    """Objects in the folder."""
    known: ShardTable
    """An earlier index: in columns, since a row of Python's numbers is 7 kB."""
    kept: dict[str, int]
    """By path: which of its rows are kept."""
    counted: dict[str, str]
    """By path of the shard: the ``_stats.json`` that suffices."""

    @property
    def scanned(self) -> tuple[ObjectInfo, ...]:
        """Shards whose headers or footer are read."""
        return tuple(info for info in self.shards if info.path not in self.kept and info.path not in self.counted)

    @property
    def listing(self) -> ReadCost:
        """Pages of the listing; already paid."""
        return ReadCost(math.ceil(self.num_listed / _PAGE_OBJECTS), 0)

    @cached_property
    def most(self) -> ReadCost:
        """What reading costs at most, listing included."""
        cost = [(1, _STATS_BYTES)] * len(self.counted)
        for info in self.scanned:
            reads = math.ceil(info.size_bytes / self.store.read_unit_bytes)
            is_parquet = self.format == "parquet"
            cost.append((_FOOTER_REQUESTS, _FOOTER_BYTES) if is_parquet else (reads, info.size_bytes))
        return ReadCost(self.listing.requests + sum(each for each, _ in cost), sum(each for _, each in cost))

    @property
    def minutes(self) -> float:
        """How long that takes at 100 MB/s, or for its requests, whichever is longer."""
        of_requests = self.most.requests * min(self.store.read_unit_bytes, _REQUEST_BYTES)
        return max(self.most.num_bytes, of_requests) / _PACE_BYTES_PER_S / 60


def plan_indexing(store: Store, known: DatasetIndex | None = None, counts_suffice: bool = False) -> IndexingPlan:
    """List a folder, and decide what of it is read.

    Args:
        known: an earlier index; its rows are kept of shards that are the same version, if they are as good.
        counts_suffice: rows without a chunk table will do.

    Raises:
        DatasetError: no shards there.
    """
    objects = store.list()
    file_format, shards = find_shards(store.uri, objects)
    paths = {info.path for info in objects}
    earlier = known.shards if known is not None else ShardTable.from_rows(())
    kept = _find_same(earlier, shards, counts_suffice)
    counted = {
        info.path: stats_path(info.path)
        for info in shards
        if counts_suffice and info.path not in kept and info.size_bytes and stats_path(info.path) in paths
    }
    return IndexingPlan(
        store, file_format, tuple(shards), len(objects), earlier, kept, counted if file_format == "webdataset" else {}
    )


def _find_same(earlier: ShardTable, shards: Sequence[ObjectInfo], counts_suffice: bool) -> dict[str, int]:
    """Rows of these very versions, as good as is wanted, by path."""
    same = {(info.path, info.size_bytes, info.etag) for info in shards if info.etag}
    versions = zip(earlier.paths, earlier.size_bytes.tolist(), earlier.etags, strict=True)
    good = (earlier.has_chunk_table | counts_suffice).tolist()
    return {version[0]: at for at, version in enumerate(versions) if good[at] and version in same}


def execute_indexing(
    plan: IndexingPlan, meter: ReadMeter | None = None, progress: OnShard | None = None
) -> DatasetIndex:
    """The index of the folder; nothing is written.

    Raises:
        DatasetError: no shard has a whole sample.
        ShardReadError: reading failed after its retries.
    """
    meter = meter or ReadMeter()
    meter.count(plan.listing.requests, 0)

    def make(info: ObjectInfo) -> ShardRow:
        if (at := plan.kept.get(info.path)) is not None:
            return plan.known[at]
        return _count(plan.store, info, plan.counted.get(info.path), meter) or _scan(plan.store, info, meter)

    index = DatasetIndex.from_rows(plan.store.uri, plan.format, _in_threads(make, plan.shards, progress))
    require_samples(index)
    if index.problems:
        logger.warning("%s: %s", plan.store.uri, name_some(index.problems))
    return index


def index_dataset(store: Store, progress: OnShard | None = None) -> DatasetIndex:
    """Look into every shard of the folder; nothing is written. Raises as the two that it calls."""
    return execute_indexing(plan_indexing(store), progress=progress)


def scan_shards(
    store: Store, found: Sequence[ObjectInfo]
) -> tuple[ShardRow | ShardReadError | StorageAccessError, ...]:
    """Index rows of these shards, from headers and footers; for one that the storage does not give, its error."""
    meter = ReadMeter()

    def scan(info: ObjectInfo) -> ShardRow | ShardReadError | StorageAccessError:
        try:
            return _scan(store, info, meter)
        except (ShardReadError, StorageAccessError) as error:
            return error

    return tuple(_in_threads(scan, found, None))


def _in_threads(make: Callable[[ObjectInfo], T], shards: Sequence[ObjectInfo], progress: OnShard | None) -> Iterator[T]:
    """The rows in order, few of them at a time: who takes them keeps them in columns."""
    rows = map_ahead(make, shards, threads=_SCAN_THREADS, ahead=_SCANS_AHEAD)
    for done, row in enumerate(rows, 1):
        yield row
        if progress is not None:
            progress(done, len(shards))


def _count(store: Store, info: ObjectInfo, path: str | None, meter: ReadMeter) -> ShardRow | None:
    """A row without chunk table; None where nothing that reads tells the number of samples."""
    if path is None:
        return None
    meter.count(1, _STATS_BYTES)
    try:
        return ShardRow(info.path, info.size_bytes, info.etag, read_successes(store, path), ())
    except StatsDamagedError as error:
        logger.warning("%s: %s; the headers of %s are read instead", store.uri, error, info.path)
        return None


def _scan(store: Store, info: ObjectInfo, meter: ReadMeter) -> ShardRow:
    if info.path.endswith(".parquet"):
        meter.count(_FOOTER_REQUESTS, min(info.size_bytes, _FOOTER_BYTES))
        return scan_parquet(store, info)
    return scan_tar(store, info, meter.count)
