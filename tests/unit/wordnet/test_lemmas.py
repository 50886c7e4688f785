import random

import pytest

from orchestrator.wordnet.lemmas import lemmatize_noun
from orchestrator.wordnet.table import load_noun_table


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("dogs", "dog"),
        ("mice", "mouse"),
        ("men", "men"),  # a noun of its own, and no longer than "man"
        ("churches", "church"),
        ("puppies", "puppy"),
        ("wolves", "wolf"),
        ("boxes", "box"),
        ("firemen", "fireman"),
        ("us", "u"),
        ("glass", "glass"),
        ("hardrock", "hardrock"),
        ("", ""),
    ],
)
def test_the_lemma_is_the_shortest_known_form(word, lemma):
    assert lemmatize_noun(word, load_noun_table()) == lemma


def test_lemmas_equal_nltks_on_all_exceptions_and_on_inflected_nouns(reference):
    from nltk.stem import WordNetLemmatizer

    table = load_noun_table()
    nltk_lemma = WordNetLemmatizer().lemmatize
    nouns = random.Random(0).sample([word.lower() for word in table.words], 4000)
    inflected = [stem + ending for noun in nouns for stem in (noun, noun[:-1]) for ending in ("s", "es", "ies", "men")]
    words = [*table.exceptions, *nouns, *inflected]
    assert [lemmatize_noun(word, table) for word in words] == [nltk_lemma(word) for word in words]
