"""Records of a comparison, as files hold them."""

import math

from comparisons import METRIC, comparison
from orchestrator.evaluation.comparison import ComparisonResult, CurvePoint


def test_a_record_with_null_for_a_score_reads_without_it() -> None:
    made = comparison({"clip": [math.nan, 0.5]})
    point = CurvePoint(step=1, samples=1, train_s=1, flops=1, scores={METRIC: math.nan, "b": 1}, schedule_ended=True)
    made = made.model_copy(update={"trials": (made.trials[0].model_copy(update={"curve": (point,)}), made.trials[1])})
    text = made.model_dump_json()
    assert f'"{METRIC}":null' in text
    first, second = ComparisonResult.model_validate_json(text).trials
    assert (first.scores, first.curve[0].scores, second.scores) == ({}, {"b": 1}, {METRIC: 0.5})
