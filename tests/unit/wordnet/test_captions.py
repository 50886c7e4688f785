import random
import string

import pytest
from nltk.corpus.reader.wordnet import WordNetError

from orchestrator.labels.concepts import imagenet_offsets
from orchestrator.wordnet import captions as captions_module
from orchestrator.wordnet.captions import MAX_CAPTION_CHARACTERS, ConceptFinder, clean_caption, packaged_finder
from orchestrator.wordnet.table import load_noun_table


def concept_names(caption: str) -> list[str]:
    return [load_noun_table().name(offset) for offset in packaged_finder().find(caption)]


@pytest.mark.parametrize(
    ("caption", "concepts"),
    [
        ("An image of black dog.", ["image", "black", "dog"]),
        ("dogs, Dog's and a DOG", ["dog"]),
        ("two mice on a sofa", ["two", "mouse", "sofa"]),
        ("it was in a box as he has us at", ["box"]),  # inch, angstrom, helium, ... are kept out
        ("photo of kids", []),  # the first sense is named after a synonym
        ("a golden retriever", ["retriever"]),
        ("cat+and%20tree", ["cat", "tree"]),
        ("<b>cat</b> &amp; tree", ["cat", "tree"]),
        ("the dog’s “house”", ["dog", "house"]),
        ("womens dresses", ["woman", "dress"]),
        ("cannot cannot. well-gonna (can)", ["can"]),
        ("dog.. cat--tree, book:box 3d", ["dog", "cat", "tree", "book", "box"]),
        ("a 'dog' and a cat–tree", []),  # the published tokenizer splits off no opening quote, and no dash
        ("dogs'\ncat's\ttree's ", ["tree"]),  # nor a quote or a clitic before other white space
        ('a "red (cube)!"', ["red", "cube"]),
        ("", []),
        ("   \n", []),
        ("собака 狗 كلب", []),
        ("ﬁsh　ＤＯＧ", ["fish", "dog"]),  # a ligature, wide letters and a wide space
    ],
)
def test_a_caption_gives_its_concepts_in_order_and_once(caption, concepts):
    assert concept_names(caption) == [f"{lemma}.n.01" for lemma in concepts]


def test_cleaning_undoes_url_quoting_markup_and_typographic_quotes():
    assert clean_caption("A%20Dog+&lt;3 <i>‘x’</i>\n") == "a dog &lt;3 'x'".replace("&lt;", "<")
    assert clean_caption("1 < 2 &amp; 3") == "1 < 2 &amp; 3"


@pytest.mark.parametrize(
    ("caption", "cleaned"),  # by the published cleaning with ftfy 6.3.1
    [
        ("\ufeffdog \u206acat", "dog cat"),
        ("&#xfeff;dog &EACUTE;&NBSP;cat", "dog é\xa0cat"),
        ("&notit; &COPY; &hellip;", "&notit; © …"),
        ("d\u0133k \u01c6 \u0149 \ufb05", "dijk dž 'n ſt"),
        ("ｶﾞ ½ straße", "ガ ½ straße"),
    ],
)
def test_cleaning_repairs_what_ftfy_does(caption, cleaned):
    assert clean_caption(caption) == cleaned


def test_huge_captions_are_read_to_a_bound_whatever_they_hold():
    filler = MAX_CAPTION_CHARACTERS - 5
    assert concept_names("<" * filler + " dog") == ["dog.n.01"]
    assert concept_names(("a " * filler)[:filler] + " dog, cat") == ["dog.n.01"]
    for huge in ("<" * 10**6, ". " * 10**6, "dog" * 10**6, "'" * 10**6, "%3C" * 10**6, "&amp;" * 10**6):
        assert concept_names(huge) == []


@pytest.mark.parametrize("caption", ["x" * 100, "dog-" * 30, "'" * 200])
def test_what_is_too_long_to_come_again_is_not_remembered(caption):
    finder = ConceptFinder(load_noun_table())
    finder.find(caption)
    assert not finder._of_piece


def test_a_labelling_gives_the_indices_of_what_is_found():
    finder = ConceptFinder(load_noun_table())
    captions = ["a dog, a cat", "two mice on a sofa", "black", "", "dog.", "a blue dog and a dog"]
    index_of = {load_noun_table().synsets(lemma)[0]: index for index, lemma in enumerate(["sofa", "dog", "two"])}
    label = finder.labelling(index_of)
    for caption in captions:
        assert label(caption) == sorted(index_of[offset] for offset in finder.find(caption) if offset in index_of)
    assert label("a dog on two sofas") == [0, 1, 2]


def test_about_forty_percent_of_imagenets_classes_are_found_by_their_own_name():
    """As the paper says of this algorithm (its figure 2): names of several words are never found."""
    table, finder = load_noun_table(), packaged_finder()
    classes = imagenet_offsets()
    assert len(classes) == 1000
    found = sum(offset in finder.find(table.lemma_names(offset)[0].replace("_", " ")) for offset in classes)
    assert 0.38 <= found / len(classes) <= 0.42


def test_memories_are_bounded_keep_what_comes_again_and_forgetting_changes_no_label(monkeypatch):
    monkeypatch.setattr(captions_module, "MAX_REMEMBERED", 12)
    finder = ConceptFinder(load_noun_table())
    captions = [f"dog number{number} beside a cat" for number in range(50)]
    assert {tuple(finder.find(caption)) for caption in captions} == {tuple(packaged_finder().find("dog beside a cat"))}
    for memory in (finder._of_piece, finder._of_token):
        assert len(memory) + len(memory._older) <= 12
        assert {"number49", "number48"} <= memory.keys() | memory._older.keys()
        assert "number0" not in memory.keys() | memory._older.keys()
    worked_out = []
    monkeypatch.setattr(captions_module, "lemmatize_noun", lambda token, _: worked_out.append(token) or token)
    finder.find("a dog beside a cat and number50")
    assert worked_out == ["and", "number50"], "words that come again are still there"


@pytest.fixture(scope="module")
def nltk_concepts(reference):
    """CatLIP's labels by NLTK itself: tokenizer and lemmatizer as in version 3.8.1, and reader."""
    import nltk_381

    def concepts(caption: str) -> list[int]:
        found = []
        for token in nltk_381.tokenize(clean_caption(caption)):
            name = f"{nltk_381.lemmatize(token)}.n.01"
            try:
                synset = reference.synset(name)
            except WordNetError:
                continue
            if synset.name() == name:
                found.append(synset.offset())
        return list(dict.fromkeys(found))

    return concepts


# Other scripts, accents, symbols and numbers: no noun among them, and none may become one.
FOREIGN = (
    "собака 狗 كلب naïve café Straße ＤＯＧ dog™ ½ 3D $5 100% #dog @cat dog/cat cat-dog e-mail U.S. c++ 🐕 ﬁsh x"
    + "\u0301"
)
FUNCTION_WORDS = "a an the of in on at with and or is was are has his us it cannot don't he's they'll 3:30 1,000"
ENDINGS = ("", "", "", "s", "'s", "s'", ",", ";", ":", "...", "!", ")", '"', "--x", "-", "/", "'", "'a", "'x", "–", "—")
SPACES = (" ", " ", " ", " ", " ", "  ", "\n", "\t", " \n")
OPENINGS = ("", "", "", "(", '"', "'", "“", "#", "[")
CLOSINGS = ("", ".", " .", "?", "...", ").", '."', ".'")


def make_caption(rng: random.Random, nouns: list[str]) -> str:
    words = rng.choices(nouns + FUNCTION_WORDS.split() * 20 + FOREIGN.split() * 10, k=rng.randint(1, 12))
    parted = [rng.choice(OPENINGS) + word + rng.choice(ENDINGS) + rng.choice(SPACES) for word in words]
    return "".join(parted) + rng.choice(CLOSINGS)


def test_concepts_equal_nltks_on_thousands_of_captions(nltk_concepts):
    rng = random.Random(0)
    plain = [word for word in load_noun_table().words if set(word) <= set(string.ascii_letters)]
    nouns = rng.sample(plain, 1500)
    captions = [make_caption(rng, nouns) for _ in range(4000)]
    found = [packaged_finder().find(caption) for caption in captions]
    assert sum(map(bool, found)) > 2000  # captions do carry concepts, so that equality says something
    differing = [
        caption for caption, concepts in zip(captions, found, strict=True) if concepts != nltk_concepts(caption)
    ]
    assert differing == []
