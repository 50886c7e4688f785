"""Copies to a CUDA device run beside the step, and the step finds them complete."""

from functools import partial

import numpy as np
import pytest
import torch

from orchestrator.training.feed import Feed
from orchestrator.training.step import to_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

BUSY_CYCLES = 10**9  # about half a second


def test_the_next_batch_arrives_while_the_step_is_still_running() -> None:
    source = [[{"image": np.full((64, 64, 64, 3), number, np.uint8)}] for number in range(3)]
    feed = Feed(iter(source), partial(to_device, columns=("image",), device=torch.device("cuda")), torch.device("cuda"))
    next(feed)
    torch.cuda._sleep(BUSY_CYCLES)  # the step
    feed.prefetch()
    copied = next(feed).copied
    assert copied is not None
    copied.synchronize()
    assert not torch.cuda.current_stream().query(), "the copy waited for the step"


def test_a_step_waits_for_its_copy_and_memory_is_not_given_away_before() -> None:
    source = [[{"image": np.full((256, 224, 224, 3), number, np.uint8)}] for number in range(1, 9)]
    feed = Feed(iter(source), partial(to_device, columns=("image",), device=torch.device("cuda")), torch.device("cuda"))
    sums = []
    for batch in feed:
        torch.cuda._sleep(BUSY_CYCLES // 20)
        sums.append(batch.tensors[0]["image"].float().mean())
        del batch
        feed.prefetch()
    assert [round(value.item()) for value in sums] == list(range(1, 9))
