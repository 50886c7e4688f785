"""The table of metrics: complete rows, names that MLflow takes."""

import re

import pytest

from orchestrator.columns import SKIP_REASONS
from orchestrator.tracking import metrics


def test_rows_are_unique_and_complete() -> None:
    names = [row.name for row in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert all(row.unit and row.meaning for row in metrics.METRICS)


@pytest.mark.parametrize("suffix", ["_s", "_bytes", "_per_s", "_fraction"])
def test_a_unit_suffix_says_the_unit_of_the_row(suffix: str) -> None:
    units = {"_s": "s", "_bytes": "bytes", "_per_s": "samples/s", "_fraction": "share"}
    rows = [row for row in metrics.METRICS if row.name.endswith(suffix)]
    if suffix == "_s":
        rows = [row for row in rows if not row.name.endswith("_per_s")]
    assert rows
    assert {row.unit for row in rows} == {units[suffix]}


def test_filled_in_names_are_rows_of_the_table_that_mlflow_takes() -> None:
    names = [
        metrics.LOSS,
        metrics.train_metric("logit_scale"),
        metrics.grad_norm("image"),
        "eval/scenes/linear_probe/shape/accuracy",
        "eval_ema/scenes/zero_shot/colour/accuracy",
        *(metrics.skipped_samples(reason) for reason in SKIP_REASONS),
        *metrics.gpu_metrics(0, 0.5, 1.0),
    ]
    for name in names:
        assert metrics.is_metric(name)
        assert re.fullmatch(r"[\w\-. /]{1,250}", name)
    assert not metrics.is_metric("train/los")
    assert not metrics.is_metric("train/loss/x")
