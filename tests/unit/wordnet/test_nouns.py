"""Concepts by the paper's text: nouns by the tagger, synonyms and names of several words, against NLTK's own parts."""

import random

import nltk
import pytest

from orchestrator.errors import DatasetError
from orchestrator.labels.concepts import imagenet_offsets
from orchestrator.wordnet.captions import clean_caption
from orchestrator.wordnet.finder import Finder, build_finder
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.tagger import Tagger
from tagger_file import tagger_file


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    file = tagger_file()
    return Tagger(file.read_bytes(), str(file))


@pytest.fixture(scope="module")
def finder(tagger: Tagger) -> Finder:
    return build_finder("nouns", tagger=tagger)


@pytest.mark.parametrize(
    ("caption", "concepts"),
    [
        ("a golden retriever and two field mice", ["golden_retriever", "vole"]),
        ("Hot dogs on the road in New York City", ["hotdog", "road", "new_york"]),
        ("photo of kids with a battery at home", ["photograph", "child", "battery", "home"]),
        ("An image of black dog.", ["image", "dog"]),  # "black" is no noun here
        ("it was in a box as he has us at", ["box"]),
        ("<b>cat</b>+&amp;%20tree", ["cat", "tree"]),
        ("собака 狗", []),
        ("", []),
    ],
)
def test_nouns_with_synonyms_and_names_of_several_words(finder, caption, concepts):
    assert [load_noun_table().name(offset).removesuffix(".n.01") for offset in finder.find(caption)] == concepts


def test_huge_captions_are_read_to_a_bound(finder):
    assert len(finder.find("dog " * 10**5 + "cat")) == 1
    assert finder.find("'" * 10**6) == []


def test_three_quarters_of_imagenets_classes_are_found_by_their_own_name(finder):
    table = load_noun_table()
    found = sum(offset in finder.find(table.lemma_names(offset)[0].replace("_", " ")) for offset in imagenet_offsets())
    assert found > 700


def test_a_labelling_gives_the_indices_of_what_is_found(finder):
    retriever, road = (load_noun_table().synsets(lemma)[0] for lemma in ("golden_retriever", "road"))
    label = finder.labelling({road: 0, retriever: 1})
    assert label("golden retrievers on a road and a cat") == [0, 1]


def test_a_file_that_is_no_tagger_is_refused_with_what_it_wants():
    for data in (b"", b"PK\x05\x06" + bytes(18)):
        with pytest.raises(DatasetError, match=r"here: not a tagger .*averaged_perceptron_tagger_eng\.zip"):
            Tagger(data, "here")


def reference_concepts(reference, tag, caption: str) -> list[int]:
    """The same rules from NLTK's tokenizer, tagger, lemmatizer (of version 3.8.1) and reader, without our table."""
    from nltk_381 import lemmatize

    tagged = tag(nltk.word_tokenize(clean_caption(caption), preserve_line=True))

    def synsets(words: list[str]) -> list:
        for lemma in (lemmatize("_".join(words)), "_".join([*words[:-1], lemmatize(words[-1])])):
            if found := reference._lemma_pos_offset_map[lemma].get("n"):
                return found
        return []

    found, at = [], 0
    while at < len(tagged):
        length = 1
        for stop in range(len(tagged), at, -1):
            is_name = stop == at + 1 or tagged[at][1][:2] in ("NN", "JJ", "VB", "CD")
            offsets = (
                synsets([word for word, _ in tagged[at:stop]]) if is_name and tagged[stop - 1][1][:2] == "NN" else []
            )
            if offsets:
                found.append(offsets[0])
                length = stop - at
                break
        at += length
    return list(dict.fromkeys(found))


def test_concepts_equal_nltks_parts_on_thousands_of_captions(finder, tagger, reference):
    rng = random.Random(0)
    words = [word.replace("_", " ").lower() for word in rng.sample(load_noun_table().words, 1500)]
    function_words = [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "with",
        "and",
        "or",
        "is",
        "was",
        "are",
        "two",
        "big",
        "old",
        "running",
        "photo",
        "view",
        "red",
        "don't",
        "it's",
        "(the",
    ]
    captions = [
        " ".join(
            rng.choice((rng.choice(words), rng.choice(function_words))) + rng.choice(("", "", "", "s", ",", "'s"))
            for _ in range(rng.randint(1, 8))
        )
        for _ in range(2000)
    ]
    tag = tagger._tagger.tag
    found = [finder.find(caption) for caption in captions]
    assert sum(map(bool, found)) > 1500
    assert found == [reference_concepts(reference, tag, caption) for caption in captions]
