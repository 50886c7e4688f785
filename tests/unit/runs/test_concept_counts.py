"""A vocabulary of keys with counts is read as corenet reads it, and no pickle is executed."""

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from corenet_layout import Vit, shake
from foreign import IMAGE_SIZE, NUM_LAYERS, PATCH, WIDTH
from imported import run_uri
from orchestrator.errors import ModelSourceError
from orchestrator.runs.concept_counts import read_counted_vocabulary
from orchestrator.runs.folder import open_run
from orchestrator.runs.import_weights import import_weights
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.training.parts import block_format
from orchestrator.wordnet.vocabulary import Vocabulary

DOG, CAT, CAR = 2084071, 2121620, 2958343
COUNTS = {f"n{CAR}": 30, f"n{DOG}": 20, f"n{CAT}": 20, "n7739125": 4}


class Harmful:
    """What a pickle may hold: a call of any function."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, ("1 / 0",)


def saved(content: object, folder: Path, name: str = "vocab.pkl") -> Path:
    (folder / name).write_bytes(pickle.dumps(content))
    return folder / name


def test_a_released_catlip_goes_in_with_corenets_vocabulary(tmp_path: Path, cluster: ClusterSpec) -> None:
    theirs = shake(Vit(IMAGE_SIZE, PATCH, WIDTH, NUM_LAYERS, 2, nn.Linear(WIDTH, 3), flash=True))
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    import_weights(str(tmp_path / "vit.pt"), "released", cluster, vocabulary=str(saved(COUNTS, tmp_path)))
    _, plan, _ = open_run(run_uri(cluster, "released"), cluster.storage.s3)
    vocabulary = block_format(plan).vocabulary
    assert vocabulary is not None
    assert (vocabulary.offsets, vocabulary.counts, vocabulary.num_captions) == ((CAR, DOG, CAT), (30, 20, 20), 70)
    labeller = block_format(plan).labeller
    assert labeller is not None
    assert labeller.labels("a dog in a car") == [0, 1]


@pytest.mark.parametrize("content", [COUNTS, Counter(COUNTS)], ids=["dict", "Counter"])
def test_pickle_and_json_say_the_same(tmp_path: Path, content: dict[str, int]) -> None:
    found = read_counted_vocabulary(saved(content, tmp_path), 2)
    (tmp_path / "vocab.json").write_text(json.dumps(COUNTS))
    assert read_counted_vocabulary(tmp_path / "vocab.json", 2) == found
    assert Vocabulary.from_bytes(found).offsets == (CAR, DOG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({f"n{DOG}": Harmful()}, r"refused: it asks for builtins\.eval, which would be executed"),
        ([f"n{DOG}"], r"holds a list; wanted a dictionary of WordNet offsets"),
        ({"dog": 3}, r"'dog' is no offset of a noun"),
        ({f"n{DOG}": "many"}, r"the count of n2084071 is 'many'"),
        ({"n2084072": 3}, r"no nouns of WordNet 3\.0-\w+: \[2084072\]"),
        ({f"n{DOG}": 3, f"n0{DOG}": 3}, r"names a concept twice among its first 2"),
        ({}, r"has 0 concepts, the classifier 1 rows"),
    ],
)
def test_what_is_no_vocabulary_is_refused_and_never_executed(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ModelSourceError, match=message):
        read_counted_vocabulary(saved(content, tmp_path), max(1, len(content) if isinstance(content, dict) else 0))


def test_a_damaged_pickle_is_said(tmp_path: Path) -> None:
    file = saved(COUNTS, tmp_path)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelSourceError, match=r"vocab\.pkl: refused: "):
        read_counted_vocabulary(file, 2)
