"""Verifying a data set before a device is booked for it: every shard is read once, in parallel.

Owns what is compared and what becomes of the findings; one shard is ``verify_shard.py``, one sample ``audit.py``. Needs
no index: with one, shards are compared with it. Memory: one read and one row group a process, and 20 bytes a sample
here, for the duplicates.
"""

import heapq
import math
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from multiprocessing import get_context

from orchestrator.data.audit import SampleRules
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
from orchestrator.data.shard_table import ShardTable
from orchestrator.data.stats import stats_path
from orchestrator.data.verify_shard import ShardFindings, ShardTask, count_mismatch, verify_shard
from orchestrator.errors import DatasetError, MemoryExhaustedError, ShardReadError, StorageAccessError
from orchestrator.storage.store import ObjectInfo, Store

EXAMPLES = 3  # kept of each reason
_UNREAD = ("shard_unreadable", "shard_changed")


@dataclass(frozen=True)
class Sampling:
    """Which chunks are looked at where not all are: the same for the same seed and shards."""

    fraction: float
    """Of all chunks, rounded up; in (0, 1]."""
    seed: int


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
    rows: list[ShardRow] = field(default_factory=list)
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
) -> Verification:
    """Look at every shard of a folder; nothing is written.

    Args:
        sampling: look at a share of the chunks only; shards without a valid index row are scanned for it.
        on_problem: called with each problem: those of the listing, of the shards by path, duplicates.
        progress: called with (shards done, shards in all).

    Raises:
        DatasetError: no shards there.
        StorageAccessError: the folder does not open.
        MemoryExhaustedError: a process was killed.
    """
    check = _DatasetCheck(store, rules, on_problem)
    tasks = check.plan_tasks(sampling)
    with ProcessPoolExecutor(min(num_processes, len(tasks)), get_context("spawn"), _start_process) as pool:
        num_done = 0
        try:
            for findings in pool.map(verify_shard, tasks):
                check.add(tasks[num_done], findings)
                num_done += 1
                if progress is not None:
                    progress(num_done, len(tasks))
        except BrokenProcessPool as error:
            raise MemoryExhaustedError(
                f"{store.uri}: a process was killed while shards from {tasks[num_done].info.path} on were read, "
                f"usually for its memory; verify with fewer processes than {num_processes}, or with more memory"
            ) from error
    return check.conclude()


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
    index = DatasetIndex.from_rows(store.uri, verification.format, verification.rows)
    require_samples(index)
    save_index(store, index)
    before = verification.indexed
    was = f"before: {before.num_samples:,} in {len(before.shards):,}" if before else "there was none before"
    damaged = sum(bool(row.problems) for row in index.shards)
    return (
        f"{INDEX_PATH} written anew: {index.num_samples:,} whole samples in {len(index.shards):,} shards ({was}), "
        f"{damaged:,} of them damaged; digest {index.digest}"
    )


def add_chunk_tables(store: Store, verification: Verification) -> str | None:
    """Give shards that were only counted the chunk tables that were read on the way; what was done, in words."""
    index = verification.indexed
    if index is None or not index.num_counted:
        return None
    found = {row.path: row for row in verification.rows if not row.problems}
    rows = []
    for row in index.shards:
        read = found.get(row.path, row)
        is_the_same = (read.size_bytes, read.num_samples) == (row.size_bytes, row.num_samples)
        if is_the_same and row.etag in ("", read.etag) and not row.has_chunk_table:
            row = replace(row, boundaries=read.boundaries, sha256=read.sha256)
        rows.append(row)
    completed = replace(index, shards=ShardTable.from_rows(rows))
    num_added = index.num_counted - completed.num_counted
    left = f"{completed.num_counted:,} of {len(rows):,} shards have none yet"
    if not num_added:
        return f"no chunk table was added to {INDEX_PATH}; {left}"
    try:
        save_index(store, completed)
    except StorageAccessError as error:
        return f"{num_added:,} chunk tables were read and not kept ({error})"
    return f"{num_added:,} chunk tables added to {INDEX_PATH}; {left}"


class _DatasetCheck:
    def __init__(self, store: Store, rules: SampleRules, on_problem: Callable[[Problem], None] | None) -> None:
        self._store = store
        self._rules = rules
        self._on_problem = on_problem
        self._duplicates = DuplicateFinder()
        objects = store.list()
        file_format, self._shards = find_shards(store.uri, objects)
        self._paths = {info.path for info in objects}
        self.result = Verification(store.uri, file_format, len(self._shards), None)

    def plan_tasks(self, sampling: Sampling | None) -> list[ShardTask]:
        """One task a shard, by path. Without chunks in the sample it still compares what is known of the shard."""
        known = self._compare_index()
        if sampling is None:
            return [self._task(info, known.get(info.path), None) for info in self._shards]
        unknown = [info for info in self._shards if info.path not in known or not known[info.path].has_chunk_table]
        self.result.rows += scan_shards(self._store, unknown)
        for row in self.result.rows:
            counted = known.get(row.path)
            if counted is not None and counted.num_samples != row.num_samples:
                self._add_problem(count_mismatch(row, counted))
        known |= {row.path: row for row in self.result.rows}
        chosen = choose_chunks(known.values(), sampling)
        return [self._task(info, known[info.path], chosen.get(info.path, ())) for info in self._shards]

    def _task(self, info: ObjectInfo, known: ShardRow | None, chunks: tuple[int, ...] | None) -> ShardTask:
        path = stats_path(info.path)
        return ShardTask(self._store, self._rules, info, known, path if path in self._paths else None, chunks)

    def _compare_index(self) -> dict[str, ShardRow]:
        """Index rows of the shards that are still what was indexed, by path; what is not is a problem."""
        try:
            index = load_index(self._store, verify=False)
        except DatasetError as error:
            self._add_problem(Problem(INDEX_PATH, "index_damaged", None, str(error)))
            return {}
        if index is None:
            return {}
        self.result.indexed = index
        problems = list(compare_listing(index, self._shards))
        for problem in problems:
            self._add_problem(problem)
        changed = {problem.shard for problem in problems}
        return {row.path: row for row in index.shards if row.path not in changed}

    def add(self, task: ShardTask, findings: ShardFindings) -> None:
        """Take in what was found in the next shard."""
        for problem in findings.problems:
            self._add_problem(problem)
        self.result.num_samples += findings.num_samples
        if findings.row is not None:
            self.result.rows.append(findings.row)
        self._duplicates.add(task.info.path, findings)

    def conclude(self) -> Verification:
        """The result, duplicates included."""
        for problem in self._duplicates.find():
            self._add_problem(problem)
        return self.result

    def _add_problem(self, problem: Problem) -> None:
        self.result.add(problem)
        if self._on_problem is not None:
            self._on_problem(problem)


def choose_chunks(rows: Iterable[ShardRow], sampling: Sampling) -> dict[str, tuple[int, ...]]:
    """Chunks to look at, by shard: those of least hash, so that neither order nor number of other shards matters."""

    def rank(chunk: tuple[str, int]) -> bytes:
        return blake2b(f"{sampling.seed}\0{chunk[0]}\0{chunk[1]}".encode(), digest_size=8).digest()

    chunks = [(row.path, chunk) for row in rows for chunk in range(row.num_chunks)]
    num_chosen = max(1, math.ceil(round(sampling.fraction * len(chunks), 6)))  # 7% of 100 is not 8
    chosen: dict[str, tuple[int, ...]] = {}
    for path, chunk in sorted(heapq.nsmallest(num_chosen, chunks, key=rank)):
        chosen[path] = (*chosen.get(path, ()), chunk)
    return chosen


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us; an interrupt would print a traceback each
    warnings.simplefilter("ignore")  # what Pillow warns of at odd metadata
