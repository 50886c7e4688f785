from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.predicate import satisfies
from orchestrator.errors import DatasetError
from orchestrator.spec.selection import PredicateSpec


def kept(column: pa.Array, **asked: Any) -> list[bool]:
    return satisfies(column, PredicateSpec(**asked), "here").tolist()


@pytest.mark.parametrize(
    ("column", "asked", "expected"),
    [
        (pa.array([1, 2, 3, 4]), {"min": 2, "max": 3}, [False, True, True, False]),
        (pa.array([1, 2, 3]), {"max": 1.5}, [True, False, False]),
        (pa.array([1.0, 2.5]), {"min": 2.5}, [False, True]),
        (pa.array([Decimal("1.25"), Decimal("1.50")]), {"min": 1.5}, [False, True]),
        (pa.array([2**63 + 1, 5], pa.uint64()), {"one_of": [2**63 + 1, -1]}, [True, False]),
        (pa.array([1, 2], pa.int8()), {"one_of": [2, 1000]}, [False, True]),
        (pa.array([1.5, 2.0]), {"one_of": [2]}, [False, True]),
        (pa.array([True, False]), {"one_of": [False]}, [False, True]),
        (pa.array(["en", "de", "fr"]), {"one_of": ["en", "fr"]}, [True, False, True]),
        (pa.array(["grün", "x"], pa.large_string()), {"one_of": ["grün"]}, [True, False]),
        (pa.array(["en", "de", "en"]).dictionary_encode(), {"one_of": ["en"]}, [True, False, True]),
    ],
)
def test_ranges_and_values_of_every_type(column: pa.Array, asked: dict[str, Any], expected: list[bool]) -> None:
    assert kept(column, **asked) == expected


def test_a_bound_is_met_by_the_same_number_in_single_precision() -> None:
    column = pa.array(np.array([0.7, 0.69, 0.71], np.float32))
    assert kept(column, min=0.7) == [True, False, True]
    assert kept(column, one_of=[0.7]) == [True, False, False]
    assert kept(column, max=1e300) == [True, True, True]


@pytest.mark.parametrize(
    ("column", "asked"),
    [
        (pa.array([None, 1, 3]), {"min": 2}),
        (pa.array([float("nan"), 1.0, 3.0]), {"min": 2}),
        (pa.array([None, "a", "b"]), {"one_of": ["b"]}),
        (pa.array([None, False, True]), {"one_of": [True]}),
    ],
)
def test_missing_values_are_kept_only_when_asked(column: pa.Array, asked: dict[str, Any]) -> None:
    assert kept(column, **asked) == [False, False, True]
    assert kept(column, **asked, keep_missing=True) == [True, False, True]


def test_a_column_without_any_value_has_every_type() -> None:
    for asked in ({"min": 2}, {"one_of": ["b"]}):
        assert kept(pa.nulls(2), **asked) == [False, False]
        assert kept(pa.nulls(2), **asked, keep_missing=True) == [True, True]


@pytest.mark.parametrize(
    ("column", "asked", "said"),
    [
        (pa.array(["12"]), {"min": 2}, "here holds string, but min and max ask for numbers"),
        (pa.array([1]), {"one_of": ["1"]}, "here holds int64, but one_of asks for text"),
        (pa.array([True]), {"one_of": [1]}, "here holds bool, but one_of asks for numbers"),
        (pa.array([[1]]), {"min": 0}, "here holds list<.*>, but min and max ask for numbers"),
    ],
)
def test_a_column_of_another_kind_is_named(column: pa.Array, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        kept(column, **asked)
