"""Which concepts become labels: counted over captions, cut by frequency, with statistics of how well they cover them.

The vocabulary itself and the labelling of one caption live in ``wordnet/``; the stream labels with them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.errors import DatasetError
from orchestrator.wordnet.captions import caption_concepts
from orchestrator.wordnet.vocabulary import Vocabulary


def count_concepts(captions: Iterable[str]) -> Counter[int]:
    """How many captions carry each synset (a caption counts once for a word it repeats); counters of parts add up."""
    counts: Counter[int] = Counter()
    for caption in captions:
        counts.update(caption_concepts(caption))
    return counts


def build_vocabulary(
    counts: Counter[int], num_captions: int, min_count: int, max_size: int | None = None
) -> Vocabulary:
    """The concepts in at least ``min_count`` captions, at most the ``max_size`` most frequent (CatLIP's V_tau).

    Raises DatasetError where none is left.
    """
    kept = sorted(
        ((offset, count) for offset, count in counts.items() if count >= min_count),
        key=lambda concept: (-concept[1], concept[0]),
    )[:max_size]
    if not kept:
        raise DatasetError(
            f"no concept is in at least {min_count} of the {num_captions} captions read (the most frequent is in "
            f"{max(counts.values(), default=0)}): lower objective.min_count, or check that the captions are English"
        )
    return Vocabulary(
        offsets=tuple(offset for offset, _ in kept),
        counts=tuple(count for _, count in kept),
        num_captions=num_captions,
        min_count=min_count,
    )


@dataclass(frozen=True)
class Coverage:
    """How a vocabulary labels captions."""

    num_captions: int
    num_captions_by_labels: dict[int, int]
    """Number of labels -> captions with that many, ascending."""
    head: dict[str, int]
    """The most frequent concepts and their counts in the vocabulary."""
    tail: dict[str, int]
    """The least frequent ones."""

    def share_with(self, num_labels: int) -> float:
        """Share of the captions with exactly that many labels; ``share_with(0)`` are the all-zero targets."""
        return self.num_captions_by_labels.get(num_labels, 0) / max(1, self.num_captions)


def measure_coverage(captions: Iterable[str], vocabulary: Vocabulary, num_listed: int = 10) -> Coverage:
    """Labels ``captions`` and counts; ``num_listed`` concepts stand in head and tail."""
    by_labels = Counter(len(vocabulary.labels(caption)) for caption in captions)
    counts = list(zip(vocabulary.names(), vocabulary.counts, strict=True))
    return Coverage(
        num_captions=by_labels.total(),
        num_captions_by_labels=dict(sorted(by_labels.items())),
        head=dict(counts[:num_listed]),
        tail=dict(counts[-num_listed:]),
    )
