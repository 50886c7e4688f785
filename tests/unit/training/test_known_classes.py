"""Which classes a vocabulary holds, read from where a plan says it is."""

from pathlib import Path

import pytest

from orchestrator.errors import DatasetError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts, VocabularyFacts
from orchestrator.spec.targets import TargetSpec
from orchestrator.training.known_classes import known_classes
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table
from orchestrator.wordnet.vocabulary import Vocabulary


def test_classes_are_known_by_their_synset(tmp_path: Path) -> None:
    finder, table = packaged_finder(), load_noun_table()
    offsets = tuple(table.synsets(word)[0] for word in ("cube", "retriever"))
    vocabulary = Vocabulary(offsets, (2, 1), 100, 1, finder.version)
    (tmp_path / "concepts.parquet").write_bytes(vocabulary.to_bytes(table))
    found_by = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    facts = VocabularyFacts(uri=str(tmp_path / "concepts.parquet"), digest=vocabulary.digest, size=2, finder=found_by)
    targets = {
        "shape": TargetSpec(classes=("cube", "sphere"), named_in_captions=True),
        "dog": TargetSpec(classes=("poodle", "retriever"), named_in_captions=True),
        "light": TargetSpec(classes=("left", "right"), named_in_captions=False),  # none is in
    }
    assert known_classes(facts, S3Spec(), targets) == {"shape": (True, False), "dog": (False, True)}
    table_is_gone = found_by.model_copy(update={"noun_table": str(tmp_path / "gone")})
    with pytest.raises(DatasetError, match="noun_table"):
        known_classes(facts.model_copy(update={"finder": table_is_gone}), S3Spec(), targets)
