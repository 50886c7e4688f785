import random

import pytest
from nltk.stem import WordNetLemmatizer

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
        ("womens", "woman"),  # not at once: NLTK 3.8.1 goes on until a form is known
        ("ladieses", "lady"),
        ("sssss", "sss"),
        ("hardrock", "hardrock"),
        ("", ""),
    ],
)
def test_the_lemma_is_the_shortest_known_form(word, lemma):
    assert lemmatize_noun(word, load_noun_table()) == lemma


def test_lemmas_equal_nltks_on_all_exceptions_and_on_inflected_nouns(reference):
    """NLTK 3.8.1's, which the published code pins."""
    import nltk_381

    table = load_noun_table()
    nouns = random.Random(0).sample([word.lower() for word in table.words], 2000)
    endings = ("s", "es", "ies", "men", "mens", "ses", "ss")
    inflected = [stem + ending for noun in nouns for stem in (noun, noun[:-1]) for ending in endings]
    words = [*table.exceptions, *nouns, *inflected]
    lemmas = [lemmatize_noun(word, table) for word in words]
    assert lemmas == [nltk_381.lemmatize(word) for word in words]
    later = WordNetLemmatizer().lemmatize
    assert sum(lemma != later(word) for word, lemma in zip(words, lemmas, strict=True)) > 100
