"""What captions become in a block: groups of token rows, and the union of their concepts."""

import numpy as np

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, Row, unpack_block
from orchestrator.data.concepts import open_labeller
from orchestrator.data.tokens import read_trained_tokenizer, train_tokenizer
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary

CAPTIONS = [("a dog", "a cat and a dog"), ("a house", "a house"), ("nothing at all", "a cat")]


def pack(content: tuple[str, ...], captions: list[tuple[str, ...]], max_concepts: int = 4) -> dict[str, np.ndarray]:
    tokenizer = read_trained_tokenizer(train_tokenizer([text for pair in CAPTIONS for text in pair], 300), "test")
    synsets = [load_noun_table().synsets(word)[0] for word in ("cat", "dog", "house")]
    vocabulary = Vocabulary(tuple(synsets), (3, 2, 1), 6, 1, packaged_finder().version)
    labeller = open_labeller(vocabulary, FinderFacts(mode="corenet", noun_table=None, tagger=None), S3Spec())
    format = BlockFormat(content, 8, 12, max_concepts, tokenizer, labeller)
    rows = [Row(group, (0, 0, 0, index)) for index, group in enumerate(captions)]
    return unpack_block(format.pack(format.empty_images(len(rows), 8), rows, (0, 0, 0)), 8)


def test_captions_of_an_image_lie_one_after_the_other_as_they_would_alone() -> None:
    together = pack((columns.TOKENS,), CAPTIONS)[columns.TOKENS]
    assert together.shape == (3, 24)
    for which in range(2):
        alone = pack((columns.TOKENS,), [(group[which],) for group in CAPTIONS])[columns.TOKENS]
        np.testing.assert_array_equal(together.reshape(3, 2, 12)[:, which], alone)


def test_concepts_of_an_image_are_those_that_any_of_its_captions_names() -> None:
    concepts = pack((columns.CONCEPTS,), CAPTIONS)[columns.CONCEPTS]
    assert concepts.tolist() == [[0, 1, -1, -1, -1], [2, -1, -1, -1, -1], [0, -1, -1, -1, -1]]


def test_concepts_beyond_the_most_of_an_image_are_the_rarest_and_are_counted() -> None:
    captions = [("a house, a dog and a cat", "a dog"), ("a cat", "a dog"), ("a dog", "a dog")]
    concepts = pack((columns.CONCEPTS,), captions, max_concepts=1)[columns.CONCEPTS]
    assert concepts.tolist() == [[0, -1 - 2], [0, -1 - 1], [1, -1]]
