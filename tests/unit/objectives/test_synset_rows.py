"""Which concept stands for a class, and the classifier that its rows make."""

import pytest
import torch

from orchestrator.objectives.objective import LinearClassifier
from orchestrator.objectives.synset_rows import ClassMatch, match_classes, transfer_rows
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table, wnid
from orchestrator.wordnet.vocabulary import Vocabulary

FINDER = packaged_finder()
WORDS = ("dog", "cat", "restaurant", "kitchen", "retriever", "golden_retriever")


def synset(word: str) -> int:
    return load_noun_table().synsets(word)[0]


def vocabulary_of(*words: str) -> Vocabulary:
    return Vocabulary(tuple(map(synset, words)), tuple(range(len(words), 0, -1)), 100, 1, FINDER.version)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return vocabulary_of(*WORDS)


@pytest.mark.parametrize(
    ("name", "words", "similarity"),
    [
        ("dog", ["dog"], 1),
        ("Dogs", ["dog"], 1),
        ("golden retriever", ["golden_retriever"], 1),
        ("golden_retrievers", ["golden_retriever"], 1),
        ("Labrador retriever", ["retriever"], 1 / 2),  # one step below
        ("restaurant kitchen", ["restaurant", "kitchen"], 1),
        ("kitchen of the restaurant", ["kitchen", "restaurant"], 1),
        ("archaeological excavation", [], 0),
        ("in at a", [], 0),
        ("", [], 0),
    ],
)
def test_a_class_is_matched_by_what_it_is_called(
    vocabulary: Vocabulary, name: str, words: list[str], similarity: float
) -> None:
    (match,) = match_classes([name], vocabulary, FINDER)
    assert match == ClassMatch(tuple(WORDS.index(word) for word in words), pytest.approx(similarity))


def test_a_class_is_matched_by_its_wordnet_id(vocabulary: Vocabulary) -> None:
    assert match_classes([wnid(synset("cat")), "n99999999"], vocabulary, FINDER) == [
        ClassMatch((1,), 1.0),
        ClassMatch((), 0.0),
    ]


def test_the_nearest_concept_is_that_of_the_greatest_path_similarity(vocabulary: Vocabulary) -> None:
    table = load_noun_table()
    names = ["wolf", "bistro", "room", "poodle", "lion", "idea"]
    for name, match in zip(names, match_classes(names, vocabulary, FINDER, min_similarity=1e-9), strict=True):
        similarities = [table.path_similarity(synset(name), offset) for offset in vocabulary.offsets]
        assert match.similarity == pytest.approx(max(similarities))
        assert match.outputs == (similarities.index(max(similarities)),)


def test_the_least_similarity_is_a_setting(vocabulary: Vocabulary) -> None:
    (near,) = match_classes(["Labrador retriever"], vocabulary, FINDER, min_similarity=0.5)
    (strict,) = match_classes(["Labrador retriever"], vocabulary, FINDER, min_similarity=0.6)
    assert near.outputs == (WORDS.index("retriever"),)
    # The whole name is too far, but one of its words is a concept.
    assert strict == ClassMatch((WORDS.index("retriever"),), 1.0)
    assert match_classes(["poodle"], vocabulary, FINDER, min_similarity=0.6) == [ClassMatch((), 0.0)]


def test_rows_are_taken_averaged_or_drawn() -> None:
    classifier = LinearClassifier(torch.arange(12.0).view(4, 3), torch.tensor([1.0, 2.0, 3.0, 5.0]))
    matches = [ClassMatch((2,), 1.0), ClassMatch((0, 3), 0.5), ClassMatch((), 0.0)]
    weight, bias = transfer_rows(classifier, matches, seed=0)
    assert torch.equal(weight[0], classifier.weight_VF[2])
    assert torch.equal(weight[1], classifier.weight_VF[[0, 3]].mean(dim=0))
    assert 0 < weight[2].abs().max() < 0.1
    assert bias.tolist() == [3, 3, 0]
    assert torch.equal(transfer_rows(classifier, matches, seed=0).weight_VF, weight)
    assert not torch.equal(transfer_rows(classifier, matches, seed=1).weight_VF[2], weight[2])
