"""The index as read tasks use it: of a large data set one copy a node, which all of its processes map into memory.

Where chunks begin is 8 bytes a chunk: of ten billion samples more than a gigabyte, and a multiple of it while Parquet
is decoded. So one process of a node decodes it, into a file that is used as it lies; the system's page cache holds it.
"""

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from orchestrator.data.index import INDEX_PATH, DatasetIndex, load_index
from orchestrator.data.shard_table import ShardTable
from orchestrator.errors import DatasetError, StorageAccessError
from orchestrator.storage.atomic import replacing
from orchestrator.storage.disk import naming_full_disk
from orchestrator.storage.store import ObjectInfo, Store

_SHARED_FROM_BYTES = 16 * 2**20  # of the index in Parquet; a smaller one is decoded in less than a second
_KEPT_S = 7 * 24 * 3600  # after its last use


@dataclass(frozen=True)
class ShardsSource:
    """A folder of shards and the index that samples are counted and ordered by."""

    store: Store
    digest: str
    """Of the index; the same after shards were written again with as many bytes and samples."""
    version: str
    """Of its file, as the store has it: a process that goes on for longer sees that the index was renewed."""

    @classmethod
    def now(cls, store: Store, digest: str) -> "ShardsSource":
        """With the index as it lies there at the moment."""
        info = store.stat(INDEX_PATH)
        return cls(store, digest, info.etag if info else "")


_kept: dict[Store, tuple[ShardsSource, DatasetIndex]] = {}
"""Of each data set the last that was asked for; a task reads all sources in turn, so none may displace another."""


def open_index(source: ShardsSource) -> DatasetIndex:
    """The index of a source, read once a process, or once a node where it is large.

    Raises:
        DatasetError: there is another one: whoever counted or ordered samples by it meant other samples.
        StorageAccessError: the node's folder of temporary files has no room, or is not this user's alone.
    """
    if source.store not in _kept or _kept[source.store][0] != source:
        _kept[source.store] = source, _open(source)
    return _kept[source.store][1]


def _open(source: ShardsSource) -> DatasetIndex:
    info = source.store.stat(INDEX_PATH)
    if info is None or info.size_bytes < _SHARED_FROM_BYTES:
        return _load(source.store, source.digest)
    return _map(_prepare(source.store, source.digest, info))


def _prepare(store: Store, digest: str, info: ObjectInfo) -> Path:
    """The node's file; whoever comes first makes it, and the others wait."""
    folder = _own_folder()
    name = hashlib.sha256(f"{store.uri}\n{info.etag}\n{digest}".encode()).hexdigest()
    file = folder / f"{name}.arrow"
    with open(folder / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            _drop_unused(folder)
            with naming_full_disk(folder), replacing(file) as temporary:
                _write(_load(store, digest), temporary)
            pa.default_memory_pool().release_unused()
        os.utime(file)
    return file


def _load(store: Store, digest: str) -> DatasetIndex:
    index = load_index(store, verify=False)
    if index is None or index.digest != digest:
        raise DatasetError(f"{store.uri}: its index changed while it was being read; run the job again")
    return index


def _write(index: DatasetIndex, file: Path) -> None:
    table = index.shards.table.replace_schema_metadata({"uri": index.uri, "format": index.format})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _map(file: Path) -> DatasetIndex:
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    metadata = table.schema.metadata
    file_format: Literal["webdataset", "parquet"] = "webdataset" if metadata[b"format"] == b"webdataset" else "parquet"
    return DatasetIndex(metadata[b"uri"].decode(), file_format, ShardTable(table.replace_schema_metadata(None)))


def _own_folder() -> Path:
    """Of this user alone: nobody else may say where shards begin."""
    folder = Path(tempfile.gettempdir(), f"vl-orchestrator-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageAccessError(f"{folder} is not a folder of this user alone (mode 0700); remove it, or set TMPDIR")
    return folder


def _drop_unused(folder: Path) -> None:
    for file in folder.glob("*.arrow"):
        if time.time() - file.stat().st_mtime > _KEPT_S:
            file.unlink()  # who has mapped it keeps it
