"""Which steps are left out, what is counted, and that a resume judges as if nothing had happened."""

import json
import math
import pickle

import pytest

from orchestrator.errors import DivergedError
from orchestrator.spec.optimizer import GuardSpec
from orchestrator.training.guard import StepGuard

WATCHED = GuardSpec(norm_factor=3, loss_factor=2, window=4)


def judge(guard: StepGuard, *steps: tuple[float, float]) -> list[bool]:
    """Whether each (loss, norm) was taken."""
    return [guard.allows(number, loss, {"vision": norm, "total": norm}) for number, (loss, norm) in enumerate(steps, 1)]


def test_a_spike_is_told_from_the_median_once_the_window_is_full() -> None:
    guard = StepGuard(WATCHED)
    assert judge(guard, (1, 1), (9, 9), (1, 1), (1, 1)) == [True] * 4
    assert judge(guard, (1, 3.1), (2.1, 1), (2, 3)) == [False, False, True]
    assert (guard.num_spikes, guard.num_nonfinite, guard.left_out_in_a_row) == (2, 0, 0)


def test_what_was_left_out_does_not_move_the_median() -> None:
    guard = StepGuard(WATCHED)
    judge(guard, *[(1.0, 1.0)] * 4)
    assert judge(guard, *[(1.0, 5.0)] * 6) == [False] * 6
    assert guard.left_out_in_a_row == 6


def test_a_spike_that_is_only_warned_of_is_taken_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(WATCHED.model_copy(update={"on_spike": "warn"}))
    judge(guard, *[(1.0, 1.0)] * 4)
    assert judge(guard, (1.0, 4.0)) == [True]
    assert guard.num_spikes == 1
    assert "gradient norm is 4, more than 3 times the median of the last 4 steps, 1" in caplog.text


def test_without_factors_only_what_is_not_finite_is_left_out() -> None:
    guard = StepGuard(GuardSpec(window=2))
    steps = [(1.0, 1.0), (1.0, 1.0), (1e9, 1e9), (math.nan, 1.0), (1.0, math.inf)]
    assert judge(guard, *steps) == [True, True, True, False, False]
    assert (guard.num_nonfinite, guard.num_spikes) == (2, 0)


def test_a_run_that_keeps_failing_stops_and_says_at_which_step_and_where() -> None:
    guard = StepGuard(GuardSpec())
    for step in (7, 8):
        guard.check(2)
        guard.allows(step, 1.0, {"text": math.nan, "vision": 1.0, "total": math.nan})
    guard.check(2)
    guard.allows(9, math.nan, {"text": math.nan, "vision": math.nan, "total": math.nan})
    with pytest.raises(
        DivergedError, match=r"3 steps in a row .* is 2\), the last one step 9: the loss is nan"
    ) as caught:
        guard.check(2)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    guard = StepGuard(GuardSpec())
    guard.allows(7, 1.0, {"text": math.nan, "vision": 1.0, "total": math.nan})
    with pytest.raises(DivergedError, match="step 7: the gradient of text is not finite"):
        guard.check(0)


def test_a_resume_judges_as_if_it_had_never_stopped() -> None:
    first, second = StepGuard(WATCHED), StepGuard(WATCHED)
    judge(first, (1, 1), (2, 2), (math.nan, 1), (3, 3), (4, 4), (1, 50))
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    later = [(1.0, 7.0), (5.0, 9.0), (1.0, 6.0)]
    assert judge(second, *later) == judge(first, *later)


def test_an_infinite_step_is_no_spike_as_well() -> None:
    guard = StepGuard(GuardSpec(norm_factor=10, loss_factor=3, window=2))
    for step in (1, 2):
        assert guard.allows(step, 1.0, {"vision": 1.0, "total": 1.0})
    assert not guard.allows(3, math.inf, {"vision": math.inf, "total": math.inf})
    assert not guard.allows(4, 1.0, {"vision": math.inf, "total": math.inf})
    assert not guard.allows(5, 4.0, {"vision": 1.0, "total": 1.0})
    assert (guard.num_nonfinite, guard.num_spikes) == (2, 1)
