import random

import numpy as np
import pytest

from orchestrator.errors import DatasetError
from orchestrator.wordnet.table import PACKAGED_TABLE, load_noun_table, read_noun_table, wnid

DOG = 2084071


@pytest.fixture(scope="module")
def table():
    return load_noun_table()


def test_the_packaged_table_is_small_and_holds_wordnet_3_0(table):
    assert PACKAGED_TABLE.stat().st_size < 1_500_000
    assert table.version.startswith("3.0-")
    assert len(table) == 82_115


def test_a_synset_is_found_by_lemma_in_sense_order(table):
    assert table.synsets("dog")[0] == DOG
    assert [table.name(offset) for offset in table.synsets("dog")[:3]] == ["dog.n.01", "frump.n.01", "dog.n.03"]
    assert table.synsets("Washington") == table.synsets("washington")
    assert table.synsets("quickly") == []


def test_a_synset_knows_its_lemmas_hypernyms_and_imagenet_name(table):
    assert table.lemma_names(DOG) == ["dog", "domestic_dog", "Canis_familiaris"]
    assert {table.name(up) for up in table.hypernyms(DOG)} == {"canine.n.02", "domestic_animal.n.01"}
    assert wnid(DOG) == "n02084071"
    # ImageNet-1k's first class.
    assert wnid(table.synsets("tench")[0]) == "n01440764"


def test_instances_have_hypernyms_too(table):
    (paris, *_) = table.synsets("Paris")
    assert "national_capital.n.01" in {table.name(up) for up in table.hypernyms(paris)}


def test_path_similarity_counts_the_edges_over_the_nearest_common_hypernym(table):
    (cat, *_) = table.synsets("cat")
    assert table.path_similarity(DOG, DOG) == 1.0
    assert table.path_similarity(DOG, cat) == table.path_similarity(cat, DOG) == pytest.approx(0.2)


def test_an_unknown_offset_is_a_key_error(table):
    with pytest.raises(KeyError):
        table.name(DOG + 1)


def test_a_file_that_is_no_table_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"here\.npz"):
        read_noun_table(b"", "here.npz")
    other = tmp_path / "other.npz"
    np.savez(other, weights=np.zeros(3))
    with pytest.raises(DatasetError, match="build_wordnet_table"):
        read_noun_table(other.read_bytes(), "other.npz")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, offsets_S=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"pickled\.npz"):
        read_noun_table(pickled.read_bytes(), "pickled.npz")


def test_every_noun_has_nltks_senses_in_nltks_order(table, reference):
    nouns = {lemma: senses["n"] for lemma, senses in reference._lemma_pos_offset_map.items() if "n" in senses}
    assert {lemma: table.synsets(lemma) for lemma in nouns} == nouns
    assert {word.lower() for word in table.words} == set(nouns)
    assert table.exceptions == reference._exception_map["n"]


def test_names_lemmas_hypernyms_and_similarity_equal_nltks_on_random_synsets(table, reference):
    rng = random.Random(0)
    offsets = rng.sample(table.offsets, 1500)
    expected = {offset: reference.synset_from_pos_and_offset("n", offset) for offset in offsets}
    for offset, synset in expected.items():
        assert table.name(offset) == synset.name()
        assert table.lemma_names(offset) == synset.lemma_names()
        ups = synset.hypernyms() + synset.instance_hypernyms()
        assert set(table.hypernyms(offset)) == {up.offset() for up in ups}
    for a, b in zip(offsets, reversed(offsets), strict=True):
        assert table.path_similarity(a, b) == reference.path_similarity(expected[a], expected[b])


@pytest.mark.full
def test_the_script_builds_the_packaged_table_and_the_same_bytes_twice(build_script, nltk_dir, tmp_path):
    arrays = build_script.read_arrays(nltk_dir)
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    build_script.write_npz(first, arrays)
    build_script.write_npz(second, arrays)
    assert first.read_bytes() == second.read_bytes()
    with np.load(first) as rebuilt, np.load(PACKAGED_TABLE) as packaged:
        assert rebuilt.files == packaged.files
        assert all(np.array_equal(rebuilt[name], packaged[name]) for name in packaged.files)
