"""Which concepts become labels: counted over captions, cut by frequency.

The vocabulary itself and the labelling of one caption live in ``wordnet/``; the stream labels with them.
"""

from collections import Counter
from collections.abc import Iterable

from orchestrator.errors import DatasetError
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.vocabulary import Vocabulary


def count_concepts(captions: Iterable[str]) -> Counter[int]:
    """How many captions carry each synset (a caption counts once for a word it repeats); counters of parts add up."""
    counts: Counter[int] = Counter()
    for caption in captions:
        counts.update(packaged_finder().find(caption))
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
