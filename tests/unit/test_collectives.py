"""Without a process group, collectives are what they are on one rank. (With one: tests/distributed.)"""

import torch

from orchestrator.collectives import all_reduce_mean, gather_with_gradient, rank_and_world_size


def test_one_process_is_rank_zero_of_one() -> None:
    assert rank_and_world_size() == (0, 1)


def test_gathering_and_averaging_change_nothing_on_one_process() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    gather_with_gradient(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones(2, 3))
    assert all_reduce_mean({"loss": torch.tensor(2.0)}) == {"loss": torch.tensor(2.0)}
