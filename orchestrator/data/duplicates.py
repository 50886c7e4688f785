"""Samples that come twice in a data set, found from 16 bytes a sample, which lie on disk.

Digests are sorted apart by their first byte, so that equal ones meet in one of 256 parts and a part fits into memory;
the pairs that are found are sorted apart by the sample's number, which brings them into order.
"""

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from orchestrator.data.audit import DIGEST_BYTES
from orchestrator.data.problems import Problem
from orchestrator.data.verify_shard import ShardFindings, unpack_keys
from orchestrator.storage.disk import naming_full_disk

NUM_PARTS = 256
_HELD_ROWS = 2**20
_UNPACKED_SHARDS = 64

_Rows = npt.NDArray[np.uint64]


class DuplicateFinder:
    """Takes the findings of shards in order. A context: its temporary folder has about 30 bytes a sample.

    In memory: rows of a million samples, or one part (80 bytes for each 256th sample, 400 MB of 1.3 billion).
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="duplicates-")
        self._keys = open(self._path / "keys", "w+b")  # noqa: SIM115  # closed at the context's end
        self._digests = _SpilledRows(self._path / "digests", 1 + DIGEST_BYTES // 8)
        self._shards: list[str] = []
        self._starts = [0]
        self._key_ends = [0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._keys.close()
        self._folder.cleanup()

    def add(self, path: str, findings: ShardFindings) -> None:
        """Remember the samples of the next shard.

        Raises:
            StorageAccessError: the disk of temporary files is full.
        """
        digests_N2 = np.frombuffer(findings.digests, np.uint64).reshape(-1, DIGEST_BYTES // 8)
        numbers_N = np.arange(self._starts[-1], self._starts[-1] + findings.num_samples, dtype=np.uint64)
        is_known = digests_N2.any(axis=1)  # zeros equal nothing
        with naming_full_disk(self._path):
            self._digests.add(np.column_stack((numbers_N, digests_N2))[is_known], digests_N2[is_known, 0] % NUM_PARTS)
            self._keys.write(findings.packed_keys)
        self._shards.append(path)
        self._starts.append(self._starts[-1] + findings.num_samples)
        self._key_ends.append(self._key_ends[-1] + len(findings.packed_keys))

    def find(self) -> Iterator[Problem]:
        """Every sample that equals an earlier one, in order; once.

        Raises:
            StorageAccessError: the disk of temporary files is full.
        """
        starts = np.array(self._starts)
        keys = lru_cache(_UNPACKED_SHARDS)(self._read_keys)
        for pair in self._pairs_in_order():
            (path, key), (earlier_path, earlier_key) = (
                (self._shards[shard], keys(shard)[number - starts[shard]])
                for number, shard in zip(pair, np.searchsorted(starts, pair, side="right") - 1, strict=True)
            )
            yield Problem(path, "sample_duplicate", key, f"the same as {earlier_key} in {earlier_path}")

    @property
    def _path(self) -> Path:
        return Path(self._folder.name)

    def _pairs_in_order(self) -> Iterator[npt.NDArray[np.int64]]:
        """Number of a sample and of the first one that equals it, by the former."""
        pairs, span = _SpilledRows(self._path / "pairs", 2), self._starts[-1] // NUM_PARTS + 1
        for rows_N3 in self._digests.parts():
            found_P2 = _find_pairs(rows_N3)
            with naming_full_disk(self._path):
                pairs.add(found_P2, found_P2[:, 0] // np.uint64(span))
        for pairs_P2 in pairs.parts():
            yield from pairs_P2[np.argsort(pairs_P2[:, 0])].astype(np.int64)

    def _read_keys(self, shard: int) -> list[str]:
        start, stop = self._key_ends[shard : shard + 2]
        self._keys.seek(start)
        return unpack_keys(self._keys.read(stop - start))


class _SpilledRows:
    """Rows of 64-bit numbers in one file a part; some are held back, so that they are written many at a time."""

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir()
        self._files = [folder / str(part) for part in range(NUM_PARTS)]
        self._width = width
        self._held: list[tuple[_Rows, _Rows]] = []
        self._num_held = 0

    def add(self, rows_ND: _Rows, part_N: _Rows) -> None:
        """``part_N``: which part each row belongs to."""
        self._held.append((rows_ND, part_N))
        self._num_held += len(rows_ND)
        if self._num_held >= _HELD_ROWS:
            self._write()

    def parts(self) -> Iterator[_Rows]:
        """The rows of each part, as they were added; their file goes."""
        self._write()
        for file in self._files:
            if file.exists():
                yield np.fromfile(file, np.uint64).reshape(-1, self._width)
                file.unlink()

    def _write(self) -> None:
        if not self._num_held:
            return
        rows_ND, part_N = (np.concatenate(arrays) for arrays in zip(*self._held, strict=True))
        self._held, self._num_held = [], 0
        rows_ND = rows_ND[np.argsort(part_N, kind="stable")]
        ends = np.cumsum(np.bincount(part_N.astype(np.int64), minlength=NUM_PARTS))
        for file, start, stop in zip(self._files, (0, *ends), ends, strict=False):
            if start < stop:
                with file.open("ab") as out:
                    out.write(rows_ND[start:stop].tobytes())


def _find_pairs(rows_N3: _Rows) -> _Rows:
    """[P, 2]: number of a sample and of the first one that equals it. ``rows_N3``: number and digest, by number."""
    rows_N3 = rows_N3[np.lexsort(rows_N3.T[1:])]  # stable: equal samples stay in their order
    is_first = np.ones(len(rows_N3), np.bool_)
    is_first[1:] = (rows_N3[1:, 1:] != rows_N3[:-1, 1:]).any(axis=1)
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(rows_N3)), 0))
    return np.stack((rows_N3[:, 0], rows_N3[first, 0]), axis=1)[~is_first]
