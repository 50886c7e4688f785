from collections import Counter

import pytest

from orchestrator.errors import DatasetError
from orchestrator.labels.concepts import build_vocabulary, count_concepts

CAPTIONS = [
    "a red cube and a red cube",
    "a red sphere",
    "a blue cube",
    "it is as it was",
]


def counted(*captions: str) -> dict[str, int]:
    counts = count_concepts(captions)
    vocabulary = build_vocabulary(counts, len(captions), min_count=1)
    return dict(zip(vocabulary.names(), vocabulary.counts, strict=True))


def test_a_caption_counts_once_for_a_concept_it_repeats():
    assert counted(*CAPTIONS) == {"red.n.01": 2, "cube.n.01": 2, "sphere.n.01": 1, "blue.n.01": 1}


def test_counts_of_parts_add_up_to_the_count_of_the_whole():
    assert count_concepts(CAPTIONS[:1]) + count_concepts(CAPTIONS[1:]) == count_concepts(CAPTIONS)


def test_the_vocabulary_is_ordered_by_count_then_offset_and_cut_by_threshold_and_size():
    counts = Counter({30: 5, 10: 5, 20: 9, 40: 1})
    assert build_vocabulary(counts, num_captions=10, min_count=1).offsets == (20, 10, 30, 40)
    assert build_vocabulary(counts, num_captions=10, min_count=5).offsets == (20, 10, 30)
    assert build_vocabulary(counts, num_captions=10, min_count=1, max_size=2).counts == (9, 5)


def test_an_empty_vocabulary_says_what_was_read_and_what_to_change():
    with pytest.raises(DatasetError, match=r"500 of the 4 captions.*most frequent is in 2.*objective\.min_count"):
        build_vocabulary(count_concepts(CAPTIONS), len(CAPTIONS), min_count=500)
    with pytest.raises(DatasetError, match="0 captions"):
        build_vocabulary(Counter(), num_captions=0, min_count=1)
