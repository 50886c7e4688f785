"""The bare engine takes on a CUDA device the steps that it takes on the CPU."""

from typing import Literal

import pytest
import torch

from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.training.step import BareEngine, train_step
from tiny import build_tiny, global_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

NUM_STEPS = 6
# The convolution of the patches rounds to TF32 on a GPU, so that fp32 differs there as well.
TOLERANCES = {"fp32": 1e-3, "bf16": 2e-2}


def train(name: str, precision: Literal["fp32", "bf16"], device: str) -> list[list[float]]:
    """Of steps on one batch: the loss, and the norm of the whole gradient."""
    engine = BareEngine(
        build_tiny(name).to(device), OptimizerSpec(learning_rate=1e-3), ScheduleSpec(), NUM_STEPS, precision
    )
    batch = global_batch(0, device)
    losses, norms = [], []
    for _ in range(NUM_STEPS):
        losses.append(train_step(engine, [batch]).loss.item())
        norms.append(engine.gradient_norms()["total"].item())
    assert {weight.device.type for weight in engine.objective.parameters()} == {device}
    return [losses, norms]


@pytest.mark.parametrize("name", ["clip", "catlip"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_and_gradients_are_those_of_the_cpu(name: str, precision: Literal["fp32", "bf16"]) -> None:
    losses, norms = train(name, precision, "cuda")
    expected_losses, expected_norms = train(name, precision, "cpu")
    assert losses == pytest.approx(expected_losses, rel=TOLERANCES[precision])
    assert norms == pytest.approx(expected_norms, rel=5 * TOLERANCES[precision])
    assert losses[-1] < 0.96 * losses[0]
