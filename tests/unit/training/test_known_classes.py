"""Which classes a vocabulary holds, read from where a plan says it is."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import DatasetError
from orchestrator.runs.class_names import count_named
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts, VocabularyFacts
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.targets import TargetSpec
from orchestrator.training.known_classes import known_classes
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_imagenet_wnids, load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary


def vocabulary_of(folder: Path, offsets: Sequence[int]) -> VocabularyFacts:
    finder, table = packaged_finder(), load_noun_table()
    vocabulary = Vocabulary(tuple(offsets), tuple(range(len(offsets) + 1, 1, -1)), 10_000, 1, finder.version)
    (folder / "concepts.parquet").write_bytes(vocabulary.to_bytes(table))
    return VocabularyFacts(
        uri=str(folder / "concepts.parquet"),
        digest=vocabulary.digest,
        size=len(offsets),
        finder=FinderFacts(mode="corenet", noun_table=None, tagger=None),
    )


def test_classes_with_a_wordnet_id_are_known_by_it(tmp_path: Path) -> None:
    """By their names, a fifth of ImageNet's classes is another sense: the hen is a woman, the leopard its fur."""
    classes = load_imagenet_wnids()
    offsets = [int(label[1:]) for label in classes]
    named = {label: load_noun_table().lemma_names(int(label[1:]))[0].replace("_", " ") for label in classes}
    target = TargetSpec(classes=classes, named_in_captions=True, names=named)
    half = known_classes(vocabulary_of(tmp_path, offsets[::2]), S3Spec(), {"class": target})
    assert half == {"class": (True, False) * 500}
    assert known_classes(vocabulary_of(tmp_path, offsets), S3Spec(), {"class": target}) == {}, "none is outside"


def test_a_class_is_not_known_by_one_of_its_words(tmp_path: Path) -> None:
    facts = vocabulary_of(tmp_path, [load_noun_table().synsets("kitchen")[0]])
    target = TargetSpec(classes=("kitchen", "restaurant kitchen", "garage"), named_in_captions=True)
    assert known_classes(facts, S3Spec(), {"place": target}) == {"place": (True, False, False)}


def test_classes_are_known_by_their_synset(tmp_path: Path) -> None:
    facts = vocabulary_of(tmp_path, [load_noun_table().synsets(word)[0] for word in ("cube", "retriever")])
    targets = {
        "shape": TargetSpec(classes=("cube", "sphere"), named_in_captions=True),
        "dog": TargetSpec(classes=("poodle", "retriever"), named_in_captions=True),
        "light": TargetSpec(classes=("left", "right"), named_in_captions=False),  # none is in
    }
    assert known_classes(facts, S3Spec(), targets) == {"shape": (True, False), "dog": (False, True)}
    table_is_gone = facts.finder.model_copy(update={"noun_table": str(tmp_path / "gone")})
    with pytest.raises(DatasetError, match="noun_table"):
        known_classes(facts.model_copy(update={"finder": table_is_gone}), S3Spec(), targets)


def test_a_classifier_of_concepts_names_what_is_near_one(tmp_path: Path) -> None:
    facts = vocabulary_of(tmp_path, [load_noun_table().synsets(word)[0] for word in ("cube", "retriever")])
    targets = {
        "dog": TargetSpec(classes=("labrador retriever", "poodle", "n02099601"), named_in_captions=True),
        "code": TargetSpec(classes=("x17", "x18"), named_in_captions=True, templates=("a {}",)),
    }
    catlip = CatlipSpec(name="catlip")
    assert count_named(catlip, facts, targets, 0.5, S3Spec()) == {"dog": 2, "code": 0}
    assert count_named(catlip, None, targets, 0.5, S3Spec()) is None
    assert count_named(ClipSpec(name="clip"), None, targets, 0.5, S3Spec()) == {"dog": 0, "code": 2}
