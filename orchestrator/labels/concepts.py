"""Which concepts become labels: counted over captions, cut by frequency; and how much of the data they cover.

The vocabulary itself is ``wordnet/vocabulary.py``; ``concepts_job.py`` counts on a cluster.

Legend: V concepts of the vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.data.concept_labels import ShardConcepts
from orchestrator.errors import DatasetError
from orchestrator.wordnet.finder import Finder
from orchestrator.wordnet.table import load_imagenet_wnids
from orchestrator.wordnet.vocabulary import Vocabulary

MOST_LABELS = 10
"""Captions with as many labels or more are counted together."""
_NUM_NAMED = 10  # concepts of the head and of the tail in a summary
_HEAD, _TAIL = 0.01, 0.5  # shares of the concepts


@dataclass
class ConceptCounts:
    """Concepts of some captions, counted; counts of parts add up."""

    concepts: Counter[int] = field(default_factory=Counter)
    """Captions that carry each synset."""
    num_captions: int = 0
    num_samples: int = 0
    num_without: int = 0
    """Samples without a caption."""
    num_undecodable: int = 0
    """Captions that are not UTF-8, of shards that were read now."""
    num_cut: int = 0
    """Captions too long to be read to their end, of shards that were read now."""
    num_shards: int = 0
    num_stored: int = 0
    """Shards whose concepts had been found before."""

    def add(self, other: "ConceptCounts") -> None:
        """Count the other's captions as well."""
        self.concepts.update(other.concepts)
        for name in self.__dataclass_fields__.keys() - {"concepts"}:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @classmethod
    def of_shard(cls, shard: ShardConcepts) -> "ConceptCounts":
        """Of the captions of one shard."""
        counts = cls(num_shards=1, num_stored=int(shard.was_stored), num_samples=len(shard.columns[0]))
        counts.num_undecodable, counts.num_cut = shard.num_undecodable, shard.num_cut
        has_caption = np.zeros(counts.num_samples, bool)
        for column in shard.columns:
            offsets, numbers = np.unique(pc.list_flatten(column).to_numpy(), return_counts=True)
            counts.concepts.update(dict(zip(offsets.tolist(), numbers.tolist(), strict=True)))
            counts.num_captions += len(column) - column.null_count
            has_caption |= column.is_valid().to_numpy()
        counts.num_without = counts.num_samples - int(has_caption.sum())
        return counts


def count_concepts(captions: Iterable[str], finder: Finder) -> Counter[int]:
    """How many captions carry each synset (a caption counts once for a word it repeats); counters of parts add up."""
    counts: Counter[int] = Counter()
    for caption in captions:
        counts.update(finder.find(caption))
    return counts


def build_vocabulary(
    counts: Mapping[int, int],
    num_captions: int,
    min_count: int,
    max_size: int | None = None,
    *,
    finder: str,
    data: tuple[str, ...] = (),
) -> Vocabulary:
    """The concepts in at least ``min_count`` captions, at most the ``max_size`` most frequent (CatLIP's V_tau).

    Args:
        finder: version of what found them.
        data: digests of the data sets that were counted.

    Raises DatasetError where none is left.
    """
    kept = sorted(
        ((offset, count) for offset, count in counts.items() if count >= min_count),
        key=lambda concept: (-concept[1], concept[0]),
    )[:max_size]
    if not kept:
        raise DatasetError(
            f"no concept is in at least {min_count} of the {num_captions} captions read (the most frequent is in "
            f"{max(counts.values(), default=0)}): lower min_count, or check that the captions are English"
        )
    return Vocabulary(
        offsets=tuple(offset for offset, _ in kept),
        counts=tuple(count for _, count in kept),
        num_captions=num_captions,
        min_count=min_count,
        finder=finder,
        data=data,
    )


def count_labels(shard: ShardConcepts, vocabulary: Vocabulary, max_labels: int) -> tuple[NDArray[np.int64], int]:
    """[MOST_LABELS + 1] captions of a shard that have 0, 1, 2, ... labels of the vocabulary; the last: or more.

    And how many labels lie beyond ``max_labels`` of their caption.
    """
    histogram, num_left_out = np.zeros(MOST_LABELS + 1, np.int64), 0
    known = np.sort(vocabulary.offsets)
    for column in shard.columns:
        lists: pa.ListArray = column.combine_chunks().drop_null()
        is_label = np.isin(lists.flatten().to_numpy(), known)
        sums = np.concatenate([[0], np.cumsum(is_label)])
        starts = lists.offsets.to_numpy() - lists.offsets[0].as_py()
        numbers = np.diff(sums[starts])
        histogram += np.bincount(np.minimum(numbers, MOST_LABELS), minlength=MOST_LABELS + 1)
        num_left_out += int(np.maximum(numbers - max_labels, 0).sum())
    return histogram, num_left_out


def describe_coverage(
    vocabulary: Vocabulary, histogram: NDArray[np.int64], num_left_out: int, finder: Finder
) -> dict[str, Any]:
    """What a vocabulary covers of its captions, and how its labels are spread; plain values for JSON.

    ``captions_by_labels``: shares of captions with 0, 1, 2, ... labels, the last with ``MOST_LABELS`` or more.
    ``left_out_labels``: those beyond the most that an image can have. ``head_share``, ``tail_share``: of all labels,
    what the most frequent 1 % of the concepts and the rarer half carry.
    """
    counts_V = np.array(vocabulary.counts, np.int64)
    head, tail = max(1, round(_HEAD * len(counts_V))), len(counts_V) - round(_TAIL * len(counts_V))
    named = [
        (finder.table.name(offset), count) for offset, count in zip(vocabulary.offsets, vocabulary.counts, strict=True)
    ]
    return {
        "captions_by_labels": [round(float(share), 6) for share in histogram / max(1, histogram.sum())],
        "labels_per_caption": round(float(counts_V.sum() / max(1, vocabulary.num_captions)), 4),
        "left_out_labels": num_left_out,
        "head": dict(named[:_NUM_NAMED]),
        "tail": dict(named[-_NUM_NAMED:]),
        "head_share": round(float(counts_V[:head].sum() / counts_V.sum()), 4),
        "tail_share": round(float(counts_V[tail:].sum() / counts_V.sum()), 4),
        "imagenet_1k": len(imagenet_offsets() & set(vocabulary.offsets)),
    }


@cache
def imagenet_offsets() -> frozenset[int]:
    """The synsets of ImageNet-1k's thousand classes (ILSVRC 2012), in WordNet 3.0."""
    return frozenset(int(wnid.removeprefix("n")) for wnid in load_imagenet_wnids())
