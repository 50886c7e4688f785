import json
from typing import Any

import pytest

from orchestrator.errors import EvaluationError
from orchestrator.spec import targets as module
from orchestrator.spec.targets import load_targets

SHAPE: dict[str, Any] = {
    "classes": ["cube", "torus"],
    "named_in_captions": True,
    "templates": ["the {}", "a picture of {}"],
    "hypernyms": {"torus": "ring"},
}


def encode(**targets: object) -> bytes:
    return json.dumps({"targets": targets}).encode()


def test_prompts_use_the_word_that_captions_use() -> None:
    shape = load_targets(encode(shape=SHAPE))["shape"]
    assert shape.prompts_of("cube") == ["the cube", "a picture of cube"]
    assert shape.prompts_of("torus") == ["the ring", "a picture of ring"]


def test_templates_and_hypernyms_may_be_left_out() -> None:
    target = load_targets(encode(count={"classes": ["1", "2"], "named_in_captions": False}))["count"]
    assert target.templates == ()
    assert target.hypernyms == {}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"classes": ["cube"]}, "targets.shape.classes"),
        ({"classes": ["cube", "torus", "cube"]}, "classes holds one class twice"),
        ({"classes": [1, 2]}, "targets.shape.classes.0"),
        ({"named_in_captions": "perhaps"}, "targets.shape.named_in_captions"),
        ({"templates": ["the {}", "the cube"]}, "template 'the cube' has no {}"),
        ({"hypernyms": {"ball": "solid"}}, r"hypernyms names ['ball']"),
        ({"clases": ["cube"]}, "targets.shape.clases"),
    ],
)
def test_a_wrong_field_is_named_with_the_file(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        load_targets(encode(shape=SHAPE | changed), source="s3://b/eval/targets.json")
    assert "s3://b/eval/targets.json" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"targets": {}}', b'{"targets": {"a/b": {}}}', b"\xff"])
def test_what_is_no_targets_file_is_refused(data: bytes) -> None:
    with pytest.raises(EvaluationError, match=r"targets\.json does not describe evaluation targets"):
        load_targets(data)


def test_a_file_beyond_the_bound_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TARGETS_BYTES", 10)
    with pytest.raises(EvaluationError, match="at most 10"):
        load_targets(encode(shape=SHAPE))
