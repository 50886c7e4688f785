"""What an attempt that goes on makes up for: the evaluation that belongs to the checkpoint it took up."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.evaluation.predictions import mark_judged, write_predictions
from orchestrator.storage.store import open_store
from orchestrator.training.worker import _Run


@pytest.mark.parametrize(
    ("step", "restored", "judged", "owed"),
    [
        (4, True, (), True),  # ended between the checkpoint and its evaluation
        (4, True, ("raw",), True),  # or within it
        (4, True, ("raw", "ema"), False),
        (5, True, (), False),  # no evaluation goes with this step
        (4, False, (), False),  # begins at another run's checkpoint, or anew
    ],
)
def test_an_evaluation_is_owed_where_its_checkpoint_was_not_judged(
    tmp_path: Path, step: int, restored: bool, judged: tuple[str, ...], owed: bool
) -> None:
    store = open_store(str(tmp_path))
    for weights in judged:
        mark_judged(store, step, weights)
    write_predictions(store, step, "raw", [])  # which tells nothing: workers outlive a driver that is killed
    run = object.__new__(_Run)
    evaluation = SimpleNamespace(every_steps=2, sets=("scenes/eval",), weights="both")
    run._plan = SimpleNamespace(evaluation=evaluation)
    run._restored, run._ema, run._rank, run._store = object() if restored else None, object(), 0, store
    assert run._is_owed_evaluation(step) is owed
