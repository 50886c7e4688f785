"""WebDataset shards: tar archives in which a sample is consecutive files with one name and several extensions.

``scan_tar`` makes the index row of a shard from its headers alone; ``read_tar_chunk`` brings one chunk with one
ranged read. Both group members by the same rule, so that a sample's position never depends on who counts.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.data.retry import retried
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.data.tar import TarFaultError, TarMember, walk_members
from orchestrator.errors import ShardDamagedError
from orchestrator.storage.store import ObjectChangedError, ObjectInfo, ObjectNotFoundError, Store

CountReads = Callable[[int, int], None]
"""Called with (requests, bytes)."""


@dataclass(frozen=True)
class TarSample:
    """Members of one sample, by extension, in their order."""

    key: str
    members: dict[str, TarMember]

    @property
    def refused(self) -> str:
        """Its first member that is refused, and why; empty where none is."""
        return next((describe_refused(member) for member in self.members.values() if member.refused), "")

    @property
    def start(self) -> int:
        """Offset of its first header."""
        return next(iter(self.members.values())).start

    @property
    def stop(self) -> int:
        """Offset behind its last member."""
        return next(reversed(self.members.values())).stop


class _WindowReader:
    """Reads at rising offsets through a window as large as a request is worth."""

    def __init__(
        self, store: Store, path: str, etag: str, count: CountReads = lambda requests, num_bytes: None
    ) -> None:
        self._count = count
        self._store = store
        self._path = path
        self._etag = etag
        self._start = 0
        self._window = b""

    def read_at(self, offset: int, length: int) -> bytes:
        if not self._start <= offset <= offset + length <= self._start + len(self._window):
            wanted = max(length, self._store.read_unit_bytes)
            self._window = retried(lambda: self._store.read_range(self._path, offset, wanted, self._etag))
            self._start = offset
            self._count(1, len(self._window))
        return self._window[offset - self._start : offset - self._start + length]


class ChunkTable:
    """The whole samples of a tar shard, on their way to its index row."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stop = 0
        self._keys: set[str] = set()
        self._refused: list[str] = []

    def watch(self, members: Iterable[TarMember]) -> Iterator[TarMember]:
        """The members of the shard as they pass, on their way to samples."""
        for member in members:
            if member.refused:
                self._refused.append(describe_refused(member))
            yield member

    def add(self, sample: TarSample) -> None:
        """Count the next sample."""
        self._starts.append(sample.start)
        self._stop = sample.stop
        self._keys.add(sample.key)

    def to_row(self, info: ObjectInfo, fault: TarFaultError | None) -> ShardRow:
        """The index row; ``fault`` is what ended the walk. The sample before it may lack members: it was not added."""
        num_samples = len(self._starts)
        num_repeated = num_samples - len(self._keys)
        problems = []
        if fault is not None:
            problems.append(str(fault) if info.size_bytes else "the file is empty")
        if num_repeated:
            problems.append(f"{num_repeated} samples repeat a key: members of a sample must lie side by side")
        if self._refused:
            problems.append(f"{len(self._refused)} members are refused, and their samples skipped: {self._refused[0]}")
        if not num_samples and not problems:
            problems.append("no member is named key.extension")
        boundaries = (*self._starts[::CHUNK_SAMPLES], self._stop) if num_samples else ()
        return ShardRow(info.path, info.size_bytes, info.etag, num_samples, boundaries, tuple(problems))


def scan_tar(store: Store, info: ObjectInfo, count: CountReads = lambda requests, num_bytes: None) -> ShardRow:
    """The index row of a tar shard; what is wrong with it stands in ``problems``.

    Args:
        count: told of each read.

    Raises:
        ShardReadError: reading failed after its retries.
        ShardDamagedError: the shard was written again, or deleted, since it was listed.
    """
    reader = _WindowReader(store, info.path, info.etag, count)
    table = ChunkTable()
    fault = None
    with _damage_named(store, info.path, 0):
        try:
            members = walk_members(reader.read_at, 0, info.size_bytes, marked=True)
            for sample in group_members(table.watch(members)):
                table.add(sample)
        except TarFaultError as error:
            fault = error
    return table.to_row(info, fault)


def read_tar_chunk(store: Store, shard: ShardRow, chunk: int, fields: Collection[str] | None) -> list[RawSample]:
    """See ``readers.read_chunk``."""
    start, stop = shard.boundaries[chunk], shard.boundaries[chunk + 1]
    first, end = shard.chunk_range(chunk)
    with _damage_named(store, shard.path, start):
        data = retried(lambda: store.read_range(shard.path, start, stop - start, shard.etag))
        if len(data) < stop - start:
            ends = start + len(data)
            raise _damaged(store, shard.path, start, f"it ends at byte {ends}, its index says {shard.size_bytes}")
        members = walk_members(lambda offset, length: data[offset : offset + length], 0, len(data), marked=False)
        samples = [
            RawSample(first + position, sample.key, _contents(data, sample, fields), sample.refused)
            for position, sample in enumerate(group_members(members))
        ]
    if len(samples) != end - first:
        raise _damaged(store, shard.path, start, f"{len(samples)} samples found, its index says {end - first}")
    return samples


def read_keys(store: Store, shard: ShardRow) -> list[str]:
    """The keys of a shard's samples, in order, from its headers alone.

    Raises:
        ShardReadError: reading failed after its retries.
        ShardDamagedError: the shard is gone, or does not hold what its index says.
    """
    start, stop = shard.boundaries[0], shard.boundaries[-1]
    reader = _WindowReader(store, shard.path, shard.etag)
    with _damage_named(store, shard.path, start):
        keys = [sample.key for sample in group_members(walk_members(reader.read_at, start, stop, marked=False))]
    if len(keys) != shard.num_samples:
        raise _damaged(store, shard.path, start, f"{len(keys)} samples found, its index says {shard.num_samples}")
    return keys


def _contents(data: bytes, sample: TarSample, fields: Collection[str] | None) -> dict[str, bytes]:
    if sample.refused:
        return {}
    return {
        extension: data[member.data_start : member.data_start + member.size_bytes]
        for extension, member in sample.members.items()
        if fields is None or extension in fields
    }


def group_members(members: Iterable[TarMember]) -> Iterator[TarSample]:
    """Consecutive members of one key; a repeated extension begins the next sample."""
    key, group = "", dict[str, TarMember]()
    for member in members:
        parts = split_name(member.name)
        if parts is None:
            continue
        if group and (parts[0] != key or parts[1] in group):
            yield TarSample(key, group)
            group = {}
        key = parts[0]
        group[parts[1]] = member
    if group:
        yield TarSample(key, group)


def describe_refused(member: TarMember) -> str:
    """A refused member and the reason."""
    return f"{member.name!r}: {member.refused}"


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension, cut at the first dot of the base name; None for a name that has not both."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return None
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


@contextlib.contextmanager
def _damage_named(store: Store, path: str, offset: int) -> Iterator[None]:
    """What the storage and the archive say of a shard that is not what it was, as ShardDamagedError."""
    try:
        yield
    except ObjectNotFoundError as error:
        raise _damaged(store, path, offset, "the shard is gone") from error
    except ObjectChangedError as error:
        raise _damaged(store, path, offset, f"the shard was written again since it was indexed ({error})") from error
    except TarFaultError as error:
        raise _damaged(store, path, offset, f"behind that byte: {error}") from error


def _damaged(store: Store, path: str, offset: int, reason: str) -> ShardDamagedError:
    return ShardDamagedError(
        f"shard {store.uri}/{path}, chunk at byte {offset}: {reason}. Restore the shard, or index the data set "
        f"again with 'orchestrator data index {store.uri}'"
    )
