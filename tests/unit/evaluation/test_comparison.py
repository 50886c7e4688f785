"""Records of a comparison, as files hold them."""

import pytest
from pydantic import ValidationError

from comparisons import METRIC, comparison
from orchestrator.evaluation.comparison import ComparisonResult, CurvePoint


def test_a_record_with_null_for_a_score_reads_without_it() -> None:
    made = comparison({"clip": [0.25, 0.5]})
    point = CurvePoint(step=1, samples=1, train_s=1, flops=1, scores={METRIC: 0.25, "b": 1}, schedule_ended=True)
    made = made.model_copy(update={"trials": (made.trials[0].model_copy(update={"curve": (point,)}), made.trials[1])})
    text = made.model_dump_json().replace(f'"{METRIC}":0.25', f'"{METRIC}":null')  # as NaN was written
    assert text.count(":null") >= 2
    first, second = ComparisonResult.model_validate_json(text).trials
    assert (first.scores, first.curve[0].scores, second.scores) == ({}, {"b": 1}, {METRIC: 0.5})


def test_a_score_that_is_not_finite_is_no_part_of_a_record() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        comparison({"clip": [float("nan"), 0.5]})
