"""Means over steps, skipped samples by reason, and a fresh start after each reading."""

import pytest
import torch

from orchestrator.training.meter import Meter

CPU = torch.device("cpu")


def test_metrics_are_means_over_the_steps_since_the_last_reading() -> None:
    meter = Meter()
    for loss in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(loss)}, 8)
    assert meter.read(CPU)["loss"] == pytest.approx(3.0)
    for loss, num_samples in ((10.0, 8), (20.0, 24)):
        meter.add({"loss": torch.tensor(loss)}, num_samples)
    means = meter.read(CPU)
    assert means["loss"] == pytest.approx(15.0)
    assert means["samples_per_s"] == pytest.approx(16 / means["step_s"])


def test_waiting_is_a_share_of_the_time_and_pauses_count_for_nothing() -> None:
    meter = Meter()
    with meter.waiting_for_data():
        total = sum(range(200_000))
    meter.add({"loss": torch.tensor(float(total > 0))}, 1)
    waited = meter.read(CPU)["data_wait_fraction"]
    assert 0 < waited <= 1
    with meter.paused():
        sum(range(2_000_000))
    meter.add({"loss": torch.tensor(0.0)}, 1)
    assert meter.read(CPU)["data_wait_fraction"] == 0
