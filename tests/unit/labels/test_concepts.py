from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.concept_labels import ShardConcepts
from orchestrator.errors import DatasetError
from orchestrator.labels.concepts import (
    ConceptCounts,
    build_vocabulary,
    count_concepts,
    count_labels,
    describe_coverage,
    imagenet_offsets,
)
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table

CAPTIONS = [
    "a red cube and a red cube",
    "a red sphere",
    "a blue cube",
    "it is as it was",
]


def count(captions: Sequence[str]) -> Counter[int]:
    return count_concepts(captions, packaged_finder())


def column(*rows: list[int] | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(rows, pa.list_(pa.int32()))])


def test_a_caption_counts_once_for_a_concept_it_repeats():
    counts = {load_noun_table().name(offset): number for offset, number in count(CAPTIONS).items()}
    assert counts == {"red.n.01": 2, "cube.n.01": 2, "sphere.n.01": 1, "blue.n.01": 1}


def test_counts_of_parts_add_up_to_the_count_of_the_whole():
    assert count(CAPTIONS[:1]) + count(CAPTIONS[1:]) == count(CAPTIONS)


def test_a_shards_concepts_are_counted_as_its_captions_are():
    finder = packaged_finder()
    first, second = [finder.find(caption) for caption in CAPTIONS], [None, finder.find("a red dog"), None, None]
    of_shard = ConceptCounts.of_shard(ShardConcepts((column(*first), column(*second)), num_cut=1))
    assert of_shard.concepts == count([*CAPTIONS, "a red dog"])
    assert (of_shard.num_samples, of_shard.num_captions, of_shard.num_without) == (4, 5, 0)
    total = ConceptCounts()
    total.add(of_shard)
    total.add(ConceptCounts.of_shard(ShardConcepts((column(None, [], first[0]), column(None, None, None)))))
    assert total.concepts == count([*CAPTIONS, "a red dog", CAPTIONS[0]])
    assert (total.num_samples, total.num_captions, total.num_without) == (7, 7, 1)
    assert (total.num_shards, total.num_stored, total.num_cut) == (2, 0, 1)


def test_the_vocabulary_is_ordered_by_count_then_offset_and_cut_by_threshold_and_size():
    counts = Counter({30: 5, 10: 5, 20: 9, 40: 1})
    assert build_vocabulary(counts, num_captions=10, min_count=1, finder="f").offsets == (20, 10, 30, 40)
    assert build_vocabulary(counts, num_captions=10, min_count=5, finder="f").offsets == (20, 10, 30)
    assert build_vocabulary(counts, num_captions=10, min_count=1, max_size=2, finder="f").counts == (9, 5)


def test_an_empty_vocabulary_says_what_was_read_and_what_to_change():
    with pytest.raises(DatasetError, match=r"500 of the 4 captions.*most frequent is in 2.*min_count"):
        build_vocabulary(count(CAPTIONS), len(CAPTIONS), min_count=500, finder="f")
    with pytest.raises(DatasetError, match="0 captions"):
        build_vocabulary(Counter(), num_captions=0, min_count=1, finder="f")


def test_coverage_counts_captions_by_labels_and_says_who_carries_them():
    table = load_noun_table()
    dog, tench, cube = (table.synsets(lemma)[0] for lemma in ("dog", "tench", "cube"))
    vocabulary = build_vocabulary({dog: 6, tench: 3, cube: 1}, num_captions=8, min_count=1, finder="f")
    many = [dog, *range(100, 120)]
    shard = ShardConcepts((column([dog, tench], None, [], [cube, 5, dog]), column(None, many, [7], [tench, dog, cube])))
    histogram, num_left_out = count_labels(shard, vocabulary, max_labels=2)
    assert histogram.tolist() == [2, 1, 2, 1, *[0] * 7]
    everything = build_vocabulary(dict.fromkeys([*many, tench, cube], 1), num_captions=1, min_count=1, finder="f")
    assert count_labels(shard, everything, 2)[0][-1] == 1, "many labels are counted together"
    coverage = describe_coverage(vocabulary, histogram, num_left_out, packaged_finder())
    assert coverage["left_out_labels"] == num_left_out == 1
    assert coverage["captions_by_labels"][:4] == pytest.approx(np.array([2, 1, 2, 1]) / 6, abs=1e-5)
    assert coverage["labels_per_caption"] == 10 / 8
    assert next(iter(coverage["head"].items())) == ("dog.n.01", 6)
    assert coverage["head_share"] == 0.6
    assert tench in imagenet_offsets()
    assert coverage["imagenet_1k"] == 1
