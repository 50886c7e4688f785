"""Who is timed beside whom, and which of a run's windows counts; tests/ray/test_compare.py times real runs."""

import pytest

from orchestrator.runs.calibration import Stopwatch, waves
from orchestrator.runs.interrupts import StopRequest
from orchestrator.tracking.metrics import HELDOUT_LOSS, STEP_S
from orchestrator.training.reports import NoteReport, StepReport


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [
        (1, [("a",), ("b",), ("c",)]),
        (2, [("a", "b"), ("c", "a")]),
        (3, [("a", "b", "c")]),
        (5, [("a", "b", "c", "a", "b")]),
    ],
)
def test_each_is_timed_beside_as_many_as_trials_are(at_once: int, expected: list[tuple[str, ...]]) -> None:
    assert waves(["a", "b", "c"], at_once) == expected


def test_what_counts_is_a_window_in_which_all_the_others_ran() -> None:
    watch = Stopwatch(2, StopRequest())
    for seconds in (9.0, 1.0, 1.0, 2.0):  # alone at first; then the other one comes
        watch.take(0, StepReport(20, {STEP_S: seconds}, 20))
    watch.take(1, NoteReport("started"))
    watch.take(1, StepReport(20, {HELDOUT_LOSS: 1.0}))  # not about steps
    watch.take(1, StepReport(20, {STEP_S: 9.0}, 20))
    assert not watch.stop.requested
    watch.take(1, StepReport(40, {STEP_S: 3.0}, 20))
    assert watch.stop.requested
    watch.take(0, StepReport(100, {STEP_S: 0.5}, 20))  # the other one has ended by now, perhaps
    assert watch.seconds_per_step == [2.0, 3.0]
