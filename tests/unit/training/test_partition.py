import pytest
import torch
from torch import nn

from orchestrator.training.partition import ReplicatedPartition


@pytest.fixture
def partition() -> ReplicatedPartition:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    module[1].requires_grad_(False)
    return ReplicatedPartition(module, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad]))


def test_fragments_are_views_of_the_parameters(partition):
    assert [(f.name, f.start, f.numel) for f in partition.trained] == [("0.weight", 0, 6), ("0.bias", 0, 3)]
    (frozen,) = [f for f in partition.fragments if f.is_frozen]
    assert (frozen.name, frozen.numel, frozen.moments) == ("1.weight", 3, {})
    partition.fragments[1].master.fill_(2.0)
    assert partition.fragments[1].parameter.tolist() == [2.0, 2.0, 2.0]


def test_moments_that_were_set_before_the_first_update_are_what_it_starts_from(partition):
    bias = partition.fragments[1]
    bias.moments["exp_avg"].fill_(1.0)
    bias.moments["exp_avg_sq"].fill_(4.0)
    partition.num_updates = 9
    bias.parameter.grad = torch.zeros(3)
    partition._adamw.step()
    assert partition.num_updates == 10
    assert bias.moments["exp_avg"].tolist() == pytest.approx([0.9] * 3)
    assert bias.moments["exp_avg_sq"].tolist() == pytest.approx([4 * 0.999] * 3)


def test_only_what_has_bounds_is_clamped(partition):
    for fragment in partition.fragments:
        fragment.master.fill_(5.0)
    partition.clamp({"0.bias": (0.0, 1.5)})
    assert partition.fragments[0].parameter.max() == 5.0
    assert partition.fragments[1].parameter.tolist() == [1.5] * 3
