"""Verifying one shard: what a process of ``data verify`` does. Reads the shard once, or the chunks of a sample."""

import json
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.audit import SampleAudit, SampleRules
from orchestrator.data.parquet import read_footer, to_row
from orchestrator.data.parquet_columns import ColumnTypeError, choose_columns, to_samples
from orchestrator.data.problems import Problem
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.sequential import SequentialReader
from orchestrator.data.shard import ShardRow
from orchestrator.data.stats import StatsDamagedError, read_successes
from orchestrator.data.tar import TarFaultError, TarMember, walk_members
from orchestrator.data.webdataset import ChunkTable, TarSample, describe_refused, group_members, split_name
from orchestrator.errors import ShardDamagedError, ShardReadError, StorageAccessError
from orchestrator.storage.range_file import RangeFile
from orchestrator.storage.store import ObjectChangedError, ObjectInfo, ObjectNotFoundError, Store


@dataclass(frozen=True)
class ShardTask:
    """One shard to verify. Picklable."""

    store: Store
    rules: SampleRules
    info: ObjectInfo
    known: ShardRow | None
    """What an index says of the shard, if it is still the shard that was indexed."""
    stats_path: str | None
    """img2dataset's record of the shard, if there is one."""
    chunks: tuple[int, ...] | None = None
    """Of ``known``, to look at (without it, none); None: the whole shard."""


@dataclass(frozen=True)
class ShardFindings:
    """What was found in one shard."""

    problems: tuple[Problem, ...]
    row: ShardRow | None
    """Its index row from what was read; None where only chunks were, or where reading failed."""
    num_samples: int
    """Looked at."""
    digests: bytes
    """See ``SampleAudit.digests``."""
    packed_keys: bytes
    """Of the samples that were looked at; see ``unpack_keys``."""


def unpack_keys(packed: bytes) -> list[str]:
    """The keys in ``ShardFindings.packed_keys``."""
    keys: list[str] = json.loads(zlib.decompress(packed))
    return keys


def count_mismatch(row: ShardRow, known: ShardRow) -> Problem:
    """A shard that does not hold as many samples as its index row says."""
    detail = f"{row.num_samples:,} samples, its index says {known.num_samples:,}"
    return Problem(row.path, "count_mismatch", None, detail)


def unread(path: str, error: ShardReadError | StorageAccessError) -> Problem:
    """A shard that the storage does not give."""
    has_changed = isinstance(error, ObjectChangedError | ObjectNotFoundError)
    return Problem(path, "shard_changed" if has_changed else "shard_unreadable", None, str(error))


def verify_shard(task: ShardTask) -> ShardFindings:
    """Look at one shard. Whatever is wrong with it becomes a problem, a storage that fails to give it too."""
    check = _ShardCheck(task)
    row = check.run()
    audit = check.audit
    return ShardFindings(
        problems=(*check.problems, *audit.problems),
        row=row,
        num_samples=len(audit.keys),
        digests=bytes(audit.digests),
        packed_keys=zlib.compress(json.dumps(audit.keys).encode(), 1),
    )


class _ShardCheck:
    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._info = task.info
        self.audit = SampleAudit(task.info.path, task.rules)
        self.problems: list[Problem] = []

    def run(self) -> ShardRow | None:
        """The shard's index row, if the whole of it was read."""
        if self._info.size_bytes == 0:
            self._note("shard_empty", "0 bytes")
            return ShardRow(self._info.path, 0, self._info.etag, 0, (), ("the file is empty",))
        try:
            if self._task.chunks is not None:
                if self._task.known is not None:
                    self._check_chunks(self._task.known, self._task.chunks)
                return None
            row = self._check_whole()
            self._compare(row)
            return row
        except (ShardReadError, StorageAccessError) as error:
            self.problems.append(unread(self._info.path, error))
        return None

    def _check_whole(self) -> ShardRow:
        reader = SequentialReader(self._task.store, self._info)
        check = self._check_parquet if self._info.path.endswith(".parquet") else self._check_tar
        row = check(reader)
        reader.read_rest()
        return replace(row, sha256=reader.sha256)

    def _check_tar(self, reader: SequentialReader) -> ShardRow:
        table = ChunkTable()
        fault = None
        try:
            walked = self._note_refused(walk_members(reader.read_at, 0, reader.size_bytes, marked=True))
            for sample, contents in _read_samples(reader, table.watch(walked), self._task.rules.fields):
                table.add(sample)
                raw = RawSample(len(self.audit.keys), sample.key, contents, sample.refused)
                self.audit.add(raw, frozenset(sample.members))
        except TarFaultError as error:
            fault = error
            self._note(error.reason, str(error))
        self.audit.check_members()
        row = table.to_row(self._info, fault)
        if fault is None and not row.num_samples:
            self._note("no_samples", *row.problems)
        if fault is None and reader.read_rest():
            self._note("trailing_data", "the end-of-archive marker is followed by more than zeros")
        return row

    def _note_refused(self, members: Iterable[TarMember]) -> Iterator[TarMember]:
        """Those that belong to no sample; of a sample its audit tells."""
        for member in members:
            if member.refused and split_name(member.name) is None:
                self._note("member_refused", describe_refused(member))
            yield member

    def _check_parquet(self, reader: SequentialReader) -> ShardRow:
        try:
            metadata = read_footer(self._task.store, self._info.path)
        except pa.ArrowInvalid as error:
            self._note("parquet_damaged", str(error))
            words = f"not a whole Parquet file: {error}"
            return ShardRow(self._info.path, self._info.size_bytes, self._info.etag, 0, (), (words,))
        row = to_row(self._info, metadata)
        for problem in row.problems:
            self._note("row_group_large" if row.num_samples else "no_samples", problem)
        file = pq.ParquetFile(
            RangeFile(reader.read_at, reader.size_bytes),
            metadata=metadata,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        try:
            wanted = choose_columns(file.schema_arrow, self._task.rules.fields, self._where)
        except ColumnTypeError as error:
            self._note("column_unusable", str(error))
            return row
        num_whole = metadata.num_row_groups
        for group, first in enumerate(row.boundaries[:-1]):
            try:
                samples = to_samples(file.read_row_group(group, use_threads=False).select(wanted), first)
            except (pa.ArrowException, OSError) as error:
                self._note("parquet_damaged", f"row group {group}, from row {first} on: {error}")
                num_whole = min(num_whole, group)
                continue
            for sample in samples:
                self.audit.add(sample)
        return _up_to(row, num_whole)

    def _check_chunks(self, known: ShardRow, chunks: tuple[int, ...]) -> None:
        is_tar = self._info.path.endswith(".tar")
        fields = None if is_tar else self._task.rules.fields  # of a tar's sample, all members are compared
        for problem in known.problems:
            self._note("shard_damaged", problem)
        for chunk in chunks:
            try:
                for sample in read_chunk(self._task.store, known, chunk, fields):
                    self.audit.add(sample)
            except ShardDamagedError as error:
                self._note("shard_damaged", str(error))
            except ColumnTypeError as error:  # of every chunk
                self._note("column_unusable", str(error))
                break
        if is_tar:
            self.audit.check_members()
            self._compare_stats(known.num_samples)

    def _compare(self, row: ShardRow) -> None:
        """The whole shard with what its index and img2dataset noted of it."""
        known = self._task.known
        if known is not None and known.num_samples != row.num_samples:
            self.problems.append(count_mismatch(row, known))
        if known is not None and known.sha256 and known.sha256 != row.sha256:
            self._note("checksum_mismatch", f"SHA-256 {row.sha256}, its index says {known.sha256}")
        self._compare_stats(self.audit.num_images)

    def _compare_stats(self, num_images: int) -> None:
        path = self._task.stats_path
        if path is None:
            return
        try:
            successes = read_successes(self._task.store, path)
        except (StatsDamagedError, ShardReadError, StorageAccessError) as error:  # the shard itself was read
            self._note("stats_damaged", str(error))
            return
        if successes != num_images:
            self._note("stats_mismatch", f"{num_images:,} images, {path} says {successes:,}")

    @property
    def _where(self) -> str:
        return f"{self._task.store.uri}/{self._info.path}"

    def _note(self, reason: str, detail: str) -> None:
        self.problems.append(Problem(self._info.path, reason, None, detail))


def _read_samples(
    reader: SequentialReader, walked: Iterable[TarMember], fields: Collection[str]
) -> Iterator[tuple[TarSample, dict[str, bytes]]]:
    """The samples of a tar and the content of these fields, in one pass; none of a refused sample."""
    held: dict[int, bytes] = {}  # by offset: a member is read when it comes, long before its sample is complete

    def hold() -> Iterator[TarMember]:
        for member in walked:
            parts = split_name(member.name)
            if parts is not None and parts[1] in fields and not member.refused:
                held[member.start] = reader.read_at(member.data_start, member.size_bytes)
            yield member

    for sample in group_members(hold()):
        contents = {name: held.pop(part.start) for name, part in sample.members.items() if part.start in held}
        yield sample, {} if sample.refused else contents


def _up_to(row: ShardRow, num_groups: int) -> ShardRow:
    """The row of a Parquet shard of which only the first row groups read."""
    if num_groups == len(row.boundaries) - 1:
        return row
    problem = f"row group {num_groups} does not read; the rows before it are used"
    boundaries = row.boundaries[: num_groups + 1]
    return replace(row, num_samples=boundaries[-1], boundaries=boundaries, problems=(*row.problems, problem))
