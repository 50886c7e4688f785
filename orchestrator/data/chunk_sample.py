"""A share of a data set's chunks, drawn by hash."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from orchestrator.data.draw import random_bits
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.data.shard_table import ShardTable


@dataclass(frozen=True)
class Sampling:
    """Which chunks are looked at where not all are: the same for the same seed and shards."""

    fraction: float
    """Of all chunks, rounded up; in (0, 1]."""
    seed: int


def choose_chunks(shards: ShardTable, sampling: Sampling) -> dict[str, tuple[int, ...]]:
    """Chunks to look at, by shard: those of least hash, so that neither order nor number of other shards matters."""
    starts = np.concatenate(([0], np.cumsum(-(-shards.num_samples // CHUNK_SAMPLES))))
    ranks = np.empty(starts[-1], np.uint64)
    parts = [slice(start, stop) for start, stop in pairwise(starts)]
    for path, part in zip(shards.paths, parts, strict=True):
        ranks[part] = random_bits(f"{sampling.seed}\0{path}", part.stop - part.start)
    if not len(ranks):
        return {}
    num_chosen = max(1, math.ceil(round(sampling.fraction * len(ranks), 6)))  # 7% of 100 is not 8
    last = np.partition(ranks, num_chosen - 1)[num_chosen - 1]
    found = ((path, np.flatnonzero(ranks[part] <= last)) for path, part in zip(shards.paths, parts, strict=True))
    return {path: tuple(chunks.tolist()) for path, chunks in found if len(chunks)}
