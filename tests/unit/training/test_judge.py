"""Which weights an evaluation judges."""

import pytest

from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.training.judge import judged_weights


@pytest.mark.parametrize(
    ("weights", "has_average", "judged"),
    [
        ("both", True, ("raw", "ema")),
        ("ema", True, ("ema",)),
        ("raw", True, ("raw",)),
        ("both", False, ("raw",)),
        ("ema", False, ("raw",)),
    ],
)
def test_the_average_is_judged_where_there_is_one_and_it_is_wanted(weights, has_average, judged):
    assert judged_weights(EvaluationSpec(weights=weights), has_average) == judged
