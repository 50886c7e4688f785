"""Samples that come twice in a data set, found from 16 bytes a sample."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from orchestrator.data.audit import DIGEST_BYTES
from orchestrator.data.problems import Problem
from orchestrator.data.verify_shard import ShardFindings, unpack_keys

_UNPACKED_SHARDS = 64


class DuplicateFinder:
    """Takes the findings of shards in order. Holds digests and packed keys: about 20 bytes a sample."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._packed_keys: list[bytes] = []
        self._counts: list[int] = []
        self._digests: list[bytes] = []

    def add(self, path: str, findings: ShardFindings) -> None:
        """Remember the samples of the next shard."""
        self._paths.append(path)
        self._packed_keys.append(findings.packed_keys)
        self._counts.append(findings.num_samples)
        self._digests.append(findings.digests)

    def find(self) -> Iterator[Problem]:
        """Every sample that equals an earlier one, in order; once."""
        digests = np.frombuffer(b"".join(self._digests), np.uint64).reshape(-1, DIGEST_BYTES // 8)
        self._digests.clear()
        starts = np.cumsum([0, *self._counts])
        keys = lru_cache(_UNPACKED_SHARDS)(lambda shard: unpack_keys(self._packed_keys[shard]))
        for pair in _find_pairs(digests):
            (path, key), (earlier_path, earlier_key) = (
                (self._paths[shard], keys(shard)[number - starts[shard]])
                for number, shard in zip(pair, np.searchsorted(starts, pair, side="right") - 1, strict=True)
            )
            yield Problem(path, "sample_duplicate", key, f"the same as {earlier_key} in {earlier_path}")


def _find_pairs(digests_N2: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """[pairs, 2]: number of a sample and of the first one that equals it, by the former. Zeros equal nothing."""
    numbers = np.flatnonzero(digests_N2.any(axis=1))
    order = numbers[np.lexsort(digests_N2[numbers].T)]  # stable: equal samples stay in their order
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (digests_N2[order[1:]] != digests_N2[order[:-1]]).any(axis=1)
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    pairs = np.stack((order, order[first]), axis=1)[~is_first]
    return pairs[np.argsort(pairs[:, 0])]
