"""Names that hold a user's own keys: what comes out is what MLflow's own check takes."""

import pytest
from mlflow.utils.validation import _validate_param

from orchestrator.tracking.mlflow.names import accepted_name


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("evaluation.layouts./data/val: 1.split", "evaluation.layouts./data/val: 1.split"),
        ("data.spec.caption_weights.caption#1", "data.spec.caption_weights.caption-1"),
        ("ledger/lang=en (new)/missing", "ledger/lang-en -new-/missing"),
        ("layouts.s3://bucket/val.split", "layouts.s3:/bucket/val.split"),
        ("//a/./b/../c/", "a/b/--/c"),
        ("..", "--"),
        ("..a", "--a"),
        ("/", "-"),
        ("", "-"),
        ("a\n", "a-"),
    ],
)
def test_a_name_becomes_one_that_mlflow_takes(name: str, accepted: str) -> None:
    assert accepted_name(name) == accepted
    _validate_param(accepted, "")


def test_long_names_are_cut_and_stay_apart() -> None:
    names = {accepted_name("layouts." + "x" * 300 + end) for end in (".split", ".layout")}
    assert [len(name) for name in names] == [250, 250]
    for name in names:
        _validate_param(name, "")
