"""WebDataset shards: tar archives in which a sample is consecutive files with one name and several extensions.

``scan_tar`` makes the index row of a shard from its headers alone; ``read_tar_chunk`` brings one chunk with one
ranged read. Both group members by the same rule, so that a sample's position never depends on who counts.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.data.retry import retried
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.data.tar import TarFaultError, TarMember, walk_members
from orchestrator.errors import ShardDamagedError
from orchestrator.storage.store import ObjectInfo, ObjectNotFoundError, Store


@dataclass(frozen=True)
class _TarSample:
    """Members of one sample, by extension, in their order."""

    key: str
    members: dict[str, TarMember]

    @property
    def start(self) -> int:
        return next(iter(self.members.values())).start

    @property
    def stop(self) -> int:
        return next(reversed(self.members.values())).stop


class _WindowReader:
    """Reads at rising offsets through a window as large as a request is worth."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._start = 0
        self._window = b""

    def read_at(self, offset: int, length: int) -> bytes:
        if not self._start <= offset <= offset + length <= self._start + len(self._window):
            wanted = max(length, self._store.read_unit_bytes)
            self._window = retried(lambda: self._store.read_range(self._path, offset, wanted))
            self._start = offset
        return self._window[offset - self._start : offset - self._start + length]


def scan_tar(store: Store, info: ObjectInfo) -> ShardRow:
    """The index row of a tar shard; what is wrong with it stands in ``problems``.

    Raises ShardReadError when reading fails after its retries.
    """
    starts: list[int] = []
    stop = 0
    keys: set[str] = set()
    problems = []
    reader = _WindowReader(store, info.path)
    try:
        for sample in _group(walk_members(reader.read_at, 0, info.size_bytes, marked=True)):
            starts.append(sample.start)
            stop = sample.stop
            keys.add(sample.key)
    except TarFaultError as error:  # the sample before the fault may lack members, so it is not counted
        problems.append(str(error) if info.size_bytes else "the file is empty")
    if len(keys) < len(starts):
        problems.append(f"{len(starts) - len(keys)} samples repeat a key: members of a sample must lie side by side")
    if not starts and not problems:
        problems.append("no member is named key.extension")
    boundaries = (*starts[::CHUNK_SAMPLES], stop) if starts else ()
    return ShardRow(info.path, info.size_bytes, info.etag, len(starts), boundaries, tuple(problems))


def read_tar_chunk(store: Store, shard: ShardRow, chunk: int, fields: Collection[str] | None) -> list[RawSample]:
    """See ``readers.read_chunk``."""
    start, stop = shard.boundaries[chunk], shard.boundaries[chunk + 1]
    try:
        data = retried(lambda: store.read_range(shard.path, start, stop - start))
    except ObjectNotFoundError as error:
        raise _damaged(store, shard, start, "the shard is gone") from error
    if len(data) < stop - start:
        raise _damaged(store, shard, start, f"it ends at byte {start + len(data)}, its index says {shard.size_bytes}")
    first, end = shard.chunk_range(chunk)
    members = walk_members(lambda offset, length: data[offset : offset + length], 0, len(data), marked=False)
    try:
        samples = [
            RawSample(first + position, sample.key, _contents(data, sample, fields))
            for position, sample in enumerate(_group(members))
        ]
    except TarFaultError as error:
        raise _damaged(store, shard, start, f"behind that byte: {error}") from error
    if len(samples) != end - first:
        raise _damaged(store, shard, start, f"{len(samples)} samples found, its index says {end - first}")
    return samples


def _contents(data: bytes, sample: _TarSample, fields: Collection[str] | None) -> dict[str, bytes]:
    return {
        extension: data[member.data_start : member.data_start + member.size_bytes]
        for extension, member in sample.members.items()
        if fields is None or extension in fields
    }


def _group(members: Iterable[TarMember]) -> Iterator[_TarSample]:
    """Consecutive members of one key; a repeated extension begins the next sample."""
    key, group = "", dict[str, TarMember]()
    for member in members:
        parts = _split_name(member.name)
        if parts is None:
            continue
        if group and (parts[0] != key or parts[1] in group):
            yield _TarSample(key, group)
            group = {}
        key = parts[0]
        group[parts[1]] = member
    if group:
        yield _TarSample(key, group)


def _split_name(name: str) -> tuple[str, str] | None:
    """Key and extension, cut at the first dot of the base name; None for a name that has not both."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return None
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _damaged(store: Store, shard: ShardRow, offset: int, reason: str) -> ShardDamagedError:
    return ShardDamagedError(
        f"shard {store.uri}/{shard.path}, chunk at byte {offset}: {reason}. Restore the shard, or index the data set "
        f"again with 'orchestrator data index {store.uri}'"
    )
