"""What judges a model, as a job says it."""

import pytest

from orchestrator.spec.evaluation import EvaluationSpec


@pytest.mark.parametrize("again", ["scenes-eval", "scenes/eval", "/scenes/eval/"])
def test_two_sets_of_one_name_in_metrics_are_refused(again: str) -> None:
    said = f"'scenes/eval' and '{again}', which metrics both call 'scenes-eval'"
    with pytest.raises(ValueError, match=said):
        EvaluationSpec(sets=("scenes/eval", "flickr", again))
    assert EvaluationSpec(sets=("scenes/eval", "flickr")).sets == ("scenes/eval", "flickr")
