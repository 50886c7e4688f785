"""Captions: distinct, made of listed nouns, faithful to the scene, and silent on what they must not tell."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.data.scenes.captions import CONNECTING_WORDS, HYPERNYMS, NOUNS, SHAPE_NOUNS, describe
from orchestrator.data.scenes.sample import random_stream, sample_scene
from orchestrator.data.scenes.scene import Scene

WORDNET = Path("/usr/share/wordnet")  # Debian's wordnet-base


def _pairs(count: int) -> list[tuple[Scene, str]]:
    scenes = [sample_scene(0, "train", index) for index in range(count)]
    return [(scene, describe(scene, random_stream(0, "train", "caption", k))) for k, scene in enumerate(scenes)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Scene, str]]:
    return _pairs(1000)


def test_few_rows_of_a_random_batch_share_their_caption(pairs: list[tuple[Scene, str]]) -> None:
    shared_fractions = []
    for batch in range(20):
        rows = random_stream(batch, "train", "caption", 0).choice(len(pairs), 256, replace=False)
        counts = Counter(pairs[row][1] for row in rows)
        shared_fractions.append(sum(count for count in counts.values() if count > 1) / 256)
    assert max(shared_fractions) <= 0.05


def test_captions_hold_listed_words_only_and_use_them_all(pairs: list[tuple[Scene, str]]) -> None:
    words = {word for _, caption in pairs for word in caption.split()}
    assert words == NOUNS | CONNECTING_WORDS


def test_every_caption_names_colour_and_shape_of_the_largest(pairs: list[tuple[Scene, str]]) -> None:
    for scene, caption in pairs:
        words = caption.split()
        assert scene.objects[0].color in words
        assert SHAPE_NOUNS[scene.objects[0].shape] in words


def test_two_shapes_are_named_by_their_hypernym_only(pairs: list[tuple[Scene, str]]) -> None:
    assert len(HYPERNYMS) == 2
    words = {word for _, caption in pairs for word in caption.split()}
    assert not words & HYPERNYMS.keys()
    assert set(HYPERNYMS.values()) <= words


def test_the_shapes_a_caption_names_do_not_count_the_objects(pairs: list[tuple[Scene, str]]) -> None:
    nouns = {*SHAPE_NOUNS.values(), "object"}
    fewer = [sum(word in nouns for word in caption.split()) < len(scene.objects) for scene, caption in pairs]
    several = [len(scene.objects) > 1 for scene, _ in pairs]
    assert sum(fewer) > 0.5 * sum(several)


def test_articles_fit_their_words(pairs: list[tuple[Scene, str]]) -> None:
    for _, caption in pairs:
        words = caption.split()
        for article, following in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (following[0] in "aeiou"), caption


def test_left_and_right_are_those_of_the_picture(pairs: list[tuple[Scene, str]]) -> None:
    checked = 0
    for scene, caption in pairs:
        if len(scene.objects) != 2 or not {"left", "right"} & set(caption.split()):
            continue
        largest_u, other_u = (scene.camera.project(item.center_3)[0] for item in scene.objects)
        other_is_right = ("right" in caption.split()) != (" to the " in caption)
        assert (other_u > largest_u) == other_is_right, caption
        checked += 1
    assert checked > 20


@pytest.mark.skipif(not WORDNET.is_dir(), reason="Debian's wordnet-base is not installed")
def test_every_noun_is_the_name_of_its_first_wordnet_synset() -> None:
    first_offset = {}
    for line in (WORDNET / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            lemma, _, num_synsets, *rest = line.split()
            first_offset[lemma] = int(rest[-int(num_synsets)])
    data = (WORDNET / "data.noun").read_bytes()
    for noun in NOUNS:
        first_lemma = data[first_offset[noun] :].split(maxsplit=5)[4].decode()
        assert first_lemma.lower() == noun
