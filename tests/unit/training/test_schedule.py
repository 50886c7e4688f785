"""The learning rate's course at its borders and in between."""

import pytest

from orchestrator.spec.batches import Batches
from orchestrator.spec.optimizer import ScheduleSpec
from orchestrator.training.schedule import learning_rate_factor

EQUAL = Batches(global_size=1)
KINDS = ("cosine", "constant", "wsd")


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_rises_from_zero_to_its_peak_over_the_warmup(kind: str) -> None:
    schedule = ScheduleSpec(kind=kind, warmup_fraction=0.2, final_fraction=0.1)
    assert learning_rate_factor(schedule, 0.0) == 0
    assert learning_rate_factor(schedule, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(schedule, 0.2) == 1


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.1), ("constant", 1.0), ("wsd", 0.1)])
@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_the_rate_ends_where_the_kind_says(kind: str, end: float, warmup: float) -> None:
    schedule = ScheduleSpec(kind=kind, warmup_fraction=warmup, final_fraction=0.1)
    assert learning_rate_factor(schedule, warmup) == 1
    assert learning_rate_factor(schedule, 1.0) == pytest.approx(end)


def test_cosine_is_half_way_down_at_the_middle() -> None:
    schedule = ScheduleSpec(kind="cosine", warmup_fraction=0.2, final_fraction=0.1)
    assert learning_rate_factor(schedule, 0.6) == pytest.approx(0.55)


def test_wsd_is_stable_until_its_decay_and_then_falls_linearly() -> None:
    schedule = ScheduleSpec(kind="wsd", warmup_fraction=0.1, decay_fraction=0.2)
    assert learning_rate_factor(schedule, 0.8) == pytest.approx(1.0)
    assert learning_rate_factor(schedule, 0.9) == pytest.approx(0.5)


def test_a_decay_that_would_begin_in_the_warmup_begins_after_it() -> None:
    schedule = ScheduleSpec(kind="wsd", warmup_fraction=0.5, decay_fraction=1.0)
    assert learning_rate_factor(schedule, 0.25) == pytest.approx(0.5)
    assert learning_rate_factor(schedule, 0.75) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_of_a_run_has_the_rate_zero_or_more_than_the_peak(kind: str) -> None:
    schedule = ScheduleSpec(kind=kind, warmup_fraction=0.3)
    for num_steps in (1, 2, 7):
        factors = [learning_rate_factor(schedule, EQUAL.progress(step, num_steps)) for step in range(num_steps)]
        assert all(0 < factor <= 1 for factor in factors)
