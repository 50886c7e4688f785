import pytest
import torch
from torch import nn

from orchestrator.training.ema import Ema
from orchestrator.training.partition import ReplicatedPartition


@pytest.fixture
def layer() -> nn.Linear:
    return nn.Linear(2, 2)


def partition_of(module: nn.Module) -> ReplicatedPartition:
    return ReplicatedPartition(module, torch.optim.AdamW(module.parameters()))


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def fail_while_swapped(ema: Ema, layer: nn.Linear, average: torch.Tensor) -> None:
    with ema.swapped():
        assert torch.equal(layer.weight.flatten(), average)
        raise KeyError("evaluation")


def test_the_average_follows_the_recurrence_with_its_warm_up(layer):
    fill(layer, 1.0)
    ema = Ema(partition_of(layer), decay=0.3)
    expected = 1.0
    for update, value in enumerate((2.0, 5.0, -1.0, 4.0), start=1):
        fill(layer, value)
        ema.update()
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
        assert all(average.tolist() == pytest.approx([expected] * average.numel()) for average in ema.averages)
    assert ema.num_updates == 4


def test_a_small_change_is_not_rounded_away(layer):
    fill(layer, 1.0)
    ema = Ema(partition_of(layer), decay=0.9995)
    ema.num_updates = 100_000
    fill(layer, 1.001)
    ema.update()
    assert ema.averages[0][0].item() == pytest.approx(1 + 0.001 * 0.0005, abs=1e-7)
    assert ema.averages[0][0].item() > 1


def test_swapped_weights_come_back_bit_for_bit_even_after_an_error(layer):
    ema = Ema(partition_of(layer), decay=0.9)
    fill(layer, 7.0)
    ema.update()
    average = ema.averages[0].clone()
    with pytest.raises(KeyError, match="evaluation"):
        fail_while_swapped(ema, layer, average)
    assert torch.equal(layer.weight, torch.full((2, 2), 7.0))
    assert torch.equal(ema.averages[0], average)
