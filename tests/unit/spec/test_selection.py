from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.spec.selection import SelectionSpec


def test_columns_are_those_of_lists_and_predicates_once_each() -> None:
    where = {"width": {"min": 1}, "uid": {"one_of": ["a"]}}
    assert SelectionSpec(where=where).columns == ("width", "uid")
    assert SelectionSpec(allow="a.npy", where=where).columns == ("key", "width", "uid")
    assert SelectionSpec(deny="a.parquet", list_by="uid", where=where).columns == ("uid", "width")


def test_values_keep_their_types_through_json() -> None:
    where = {"a": {"one_of": [1, 2.5]}, "b": {"one_of": [True]}, "c": {"one_of": ["1"]}, "d": {"max": 3}}
    spec = SelectionSpec(where=where)
    again = SelectionSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert [(type(value), value) for value in again.where["a"].one_of or ()] == [(int, 1), (float, 2.5)]
    assert {name: predicate.kind for name, predicate in again.where.items()} == {
        "a": "numbers",
        "b": "true/false",
        "c": "text",
        "d": "numbers",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "it filters nothing"),
        ({"list_by": "uid", "where": {"a": {"min": 0}}}, "list_by is 'uid', but neither allow nor deny"),
        ({"allow": "x.npy", "deny": "x.npy"}, "allow and deny are the same list"),
        ({"allow": "uids.txt"}, "allow"),
        ({"where": {"a": {}}}, "where.a.*given none"),
        ({"where": {"a": {"min": 0, "one_of": [1]}}}, "given both"),
        ({"where": {"a": {"min": 2, "max": 1}}}, "no number is at least 2 and at most 1"),
        ({"where": {"a": {"min": float("nan")}}}, "finite"),
        ({"where": {"a": {"one_of": [float("inf")]}}}, "finite"),
        ({"where": {"a": {"one_of": []}}}, "one_of is empty"),
        ({"where": {"a": {"one_of": ["en", False]}}}, "mixes text and true/false"),
        ({"where": {"a": {"one_of": [1, True]}}}, "mixes numbers and true/false"),
    ],
)
def test_what_no_sample_can_satisfy_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){said}"):
        SelectionSpec(**content)
