"""Which replicate is registered, and that a comparison ends well where it cannot be."""

import logging
from pathlib import Path

import pytest

from comparisons import comparison
from orchestrator.runs.champion import champion_alias, find_champion, register_champion
from orchestrator.spec.cluster import S3Spec


def test_the_best_finished_replicate_is_the_champion() -> None:
    made = comparison({"clip": [0.5, 0.7], "catlip": [0.6, 0.65]})
    best = find_champion(made)
    assert best is not None
    assert (best.objective, best.scores[made.primary_metric]) == ("clip", 0.7)
    worst = find_champion(made.model_copy(update={"higher_is_better": False}))
    assert worst is not None
    assert worst.scores[made.primary_metric] == 0.5
    failed = [trial.model_copy(update={"status": "failed"}) for trial in made.trials]
    assert find_champion(made.model_copy(update={"trials": tuple(failed)})) is None


def test_an_alias_says_of_which_metric() -> None:
    metric = "eval/imagenet-val/linear_probe.embedding/all/mean_accuracy"
    assert champion_alias(metric) == "champion-imagenet-val-linear_probe-embedding-all-mean_accuracy"


def test_a_champion_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = comparison({"clip": [0.5], "catlip": [0.6]})
    trials = [trial.model_copy(update={"run_uri": str(tmp_path / trial.run)}) for trial in made.trials]
    with caplog.at_level(logging.WARNING):
        register_champion(made.model_copy(update={"trials": tuple(trials)}), S3Spec())
    assert "is no version of a registered model" in caplog.text
