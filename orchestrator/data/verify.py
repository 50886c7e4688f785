"""Verifying a data set before a device is booked for it: every shard is read once, in parallel.

Owns what is compared and what becomes of the findings; one shard is ``verify_shard.py``, one sample ``audit.py``. Needs
no index: with one, shards are compared with it. Memory: one read and one row group a process, and here the table of all
shards; digests for the duplicates lie on disk (``duplicates.py``).
"""

import signal
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import numpy as np

from orchestrator.data.audit import SampleRules
from orchestrator.data.chunk_sample import Sampling, choose_chunks
from orchestrator.data.duplicates import DuplicateFinder
from orchestrator.data.index import (
    INDEX_PATH,
    DatasetIndex,
    Format,
    compare_listing,
    find_shards,
    load_index,
    require_samples,
    save_index,
)
from orchestrator.data.indexing import scan_shards
from orchestrator.data.problems import Problem
from orchestrator.data.shard import ShardRow
from orchestrator.data.shard_table import ShardTable, ShardTableBuilder
from orchestrator.data.stats import stats_path
from orchestrator.data.verify_shard import ShardFindings, ShardTask, count_mismatch, unread, verify_shard
from orchestrator.errors import DatasetError, MemoryExhaustedError, ShardReadError, StorageAccessError
from orchestrator.storage.store import Store

EXAMPLES = 3  # kept of each reason
_TASKS_AHEAD = 8  # a process: one slow shard holds no other up
_SCANNED_AT_ONCE = 1024
_UNREAD = ("shard_unreadable", "shard_changed")


@dataclass
class Verification:
    """What was looked at and what is wrong with it."""

    uri: str
    format: Format
    num_shards: int
    indexed: DatasetIndex | None
    """The index that lay beside the shards, if there was one that reads."""
    num_samples: int = 0
    """Looked at."""
    counts: Counter[str] = field(default_factory=Counter)
    """Problems by reason (``problems.REASONS``)."""
    examples: dict[str, list[Problem]] = field(default_factory=dict)
    """The first of each reason."""
    rows: ShardTableBuilder = field(default_factory=ShardTableBuilder)
    """Of every shard whose headers were all read."""

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it where it is among the first of its reason."""
        self.counts[problem.reason] += 1
        kept = self.examples.setdefault(problem.reason, [])
        if len(kept) < EXAMPLES:
            kept.append(problem)


def verify_dataset(
    store: Store,
    rules: SampleRules,
    num_processes: int,
    sampling: Sampling | None = None,
    on_problem: Callable[[Problem], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    duplicates: bool = True,
) -> Verification:
    """Look at every shard of a folder; nothing is written there.

    Args:
        sampling: look at a share of the chunks only; shards without a valid index row are scanned for it.
        on_problem: called with each problem: those of the listing, of the shards by path, duplicates.
        progress: called with (shards done, shards in all).
        duplicates: whether samples that come twice are looked for; their digests lie on the disk of temporary files.

    Raises:
        DatasetError: no shards there.
        StorageAccessError: the folder does not open, or that disk is full.
        MemoryExhaustedError: a process was killed.
    """
    with DuplicateFinder() if duplicates else nullcontext() as finder:
        check = _DatasetCheck(store, rules, on_problem, finder)
        tasks = check.plan_tasks(sampling)
        num_processes = min(num_processes, len(check.shards))
        with ProcessPoolExecutor(num_processes, get_context("spawn"), _start_process) as pool:
            num_done = 0
            try:
                for task, findings in _verify_in_order(pool, tasks, _TASKS_AHEAD * num_processes):
                    check.add(task, findings)
                    num_done += 1
                    if progress is not None:
                        progress(num_done, len(check.shards))
            except BrokenProcessPool as error:
                raise MemoryExhaustedError(
                    f"{store.uri}: a process was killed while shards from {check.shards[num_done].path} on were read, "
                    f"usually for its memory; verify with fewer processes than {num_processes}, or with more memory"
                ) from error
        return check.conclude()


def _verify_in_order(
    pool: ProcessPoolExecutor, tasks: Iterable[ShardTask], ahead: int
) -> Iterator[tuple[ShardTask, ShardFindings]]:
    """Each task with its findings; ``ahead``: tasks that are on their way at once."""
    waiting: deque[tuple[ShardTask, Future[ShardFindings]]] = deque()
    for task in tasks:
        waiting.append((task, pool.submit(verify_shard, task)))
        if len(waiting) == ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for last, future in waiting:
        yield last, future.result()


def fix_index(store: Store, verification: Verification) -> str:
    """Write the index anew, from the whole samples that a whole verification read; what changed, in words.

    Raises:
        ShardReadError: a shard could not be read, so that nobody knows what it holds.
        DatasetError: no shard has a whole sample.
        StorageAccessError: the folder takes no index.
    """
    if unread := [reason for reason in _UNREAD if verification.counts[reason]]:
        first = verification.examples[unread[0]][0]
        raise ShardReadError(
            f"{store.uri}: the index was left as it is, since not every shard could be read "
            f"(first: {first.shard}: {first.detail}); verify again"
        )
    index = DatasetIndex(store.uri, verification.format, verification.rows.build())
    require_samples(index)
    save_index(store, index)
    before = verification.indexed
    was = f"before: {before.num_samples:,} in {len(before.shards):,}" if before else "there was none before"
    damaged = len({path for path, _ in index.shards.problems()})
    return (
        f"{INDEX_PATH} written anew: {index.num_samples:,} whole samples in {len(index.shards):,} shards ({was}), "
        f"{damaged:,} of them damaged; digest {index.digest}"
    )


def add_chunk_tables(store: Store, verification: Verification) -> str | None:
    """Give shards that were only counted the chunk tables that were read on the way; what was done, in words, also
    where the index could not be written.
    """
    index = verification.indexed
    if index is None or not index.num_counted:
        return None
    found = _RowsByPath(verification.rows.build())
    rows = ShardTableBuilder()
    for row in index.shards:
        read = found.get(row.path)
        if read is None or read.problems:
            read = row
        is_the_same = (read.size_bytes, read.num_samples) == (row.size_bytes, row.num_samples)
        if is_the_same and row.etag in ("", read.etag) and not row.has_chunk_table:
            row = replace(row, boundaries=read.boundaries, sha256=read.sha256)
        rows.add(row)
    completed = replace(index, shards=rows.build())
    num_added = index.num_counted - completed.num_counted
    left = f"{completed.num_counted:,} of {len(index.shards):,} shards have none yet"
    if not num_added:
        return f"no chunk table was added to {INDEX_PATH}; {left}"
    try:
        save_index(store, completed)
    except (StorageAccessError, ShardReadError) as error:
        return f"{num_added:,} chunk tables were read and not kept ({error})"
    return f"{num_added:,} chunk tables added to {INDEX_PATH}; {left}"


class _RowsByPath:
    """Rows that are made when they are asked for."""

    def __init__(self, shards: ShardTable) -> None:
        self.shards = shards
        self._at = {path: at for at, path in enumerate(shards.paths)}

    def get(self, path: str) -> ShardRow | None:
        """The shard's row, if there is one."""
        at = self._at.get(path)
        return None if at is None else self.shards[at]


class _DatasetCheck:
    def __init__(
        self,
        store: Store,
        rules: SampleRules,
        on_problem: Callable[[Problem], None] | None,
        duplicates: DuplicateFinder | None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._on_problem = on_problem
        self._duplicates = duplicates
        objects = store.list()
        file_format, self.shards = find_shards(store.uri, objects)
        self._paths = {info.path for info in objects}
        self.result = Verification(store.uri, file_format, len(self.shards), None)

    def plan_tasks(self, sampling: Sampling | None) -> Iterator[ShardTask]:
        """One task a shard, by path. Without chunks in the sample it still compares what is known of the shard."""
        known = self._compare_index()
        if sampling is None:
            return self._tasks(_RowsByPath(known), None)
        scanned = self._scan(known)
        self.result.rows = ShardTableBuilder(scanned)
        known = known.where(known.has_chunk_table).followed_by(scanned)
        return self._tasks(_RowsByPath(known), choose_chunks(known, sampling))

    def _tasks(self, known: _RowsByPath, chosen: Mapping[str, tuple[int, ...]] | None) -> Iterator[ShardTask]:
        for info in self.shards:
            stats, chunks = stats_path(info.path), None if chosen is None else chosen.get(info.path, ())
            kept_stats = stats if stats in self._paths else None
            yield ShardTask(self._store, self._rules, info, known.get(info.path), kept_stats, chunks)

    def _scan(self, known: ShardTable) -> ShardTable:
        """Rows of the shards whose chunks are not known; one that does not read, or was counted otherwise, is a
        problem.
        """
        complete = set(known.where(known.has_chunk_table).paths)
        unknown = [info for info in self.shards if info.path not in complete]
        counted, rows = _RowsByPath(known), ShardTableBuilder()
        for start in range(0, len(unknown), _SCANNED_AT_ONCE):
            part = unknown[start : start + _SCANNED_AT_ONCE]
            for info, row in zip(part, scan_shards(self._store, part), strict=True):
                if not isinstance(row, ShardRow):
                    self._add_problem(unread(info.path, row))
                    continue
                before = counted.get(row.path)
                if before is not None and before.num_samples != row.num_samples:
                    self._add_problem(count_mismatch(row, before))
                rows.add(row)
        return rows.build()

    def _compare_index(self) -> ShardTable:
        """Index rows of the shards that are still what was indexed; what is not is a problem."""
        none = ShardTable.from_rows(())
        try:
            index = load_index(self._store, verify=False)
        except DatasetError as error:
            self._add_problem(Problem(INDEX_PATH, "index_damaged", None, str(error)))
            return none
        if index is None:
            return none
        self.result.indexed = index
        problems = list(compare_listing(index, self.shards))
        for problem in problems:
            self._add_problem(problem)
        changed = {problem.shard for problem in problems}
        return index.shards.where(np.array([path not in changed for path in index.shards.paths], np.bool_))

    def add(self, task: ShardTask, findings: ShardFindings) -> None:
        """Take in what was found in the next shard."""
        for problem in findings.problems:
            self._add_problem(problem)
        self.result.num_samples += findings.num_samples
        if findings.row is not None:
            self.result.rows.add(findings.row)
        if self._duplicates is not None:
            self._duplicates.add(task.info.path, findings)

    def conclude(self) -> Verification:
        """The result, with the duplicates."""
        for problem in self._duplicates.find() if self._duplicates is not None else ():
            self._add_problem(problem)
        return self.result

    def _add_problem(self, problem: Problem) -> None:
        self.result.add(problem)
        if self._on_problem is not None:
            self._on_problem(problem)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us; an interrupt would print a traceback each
    warnings.simplefilter("ignore")  # what Pillow warns of at odd metadata
