"""What the feed takes when, on a CPU; that its copies overlap is shown in tests/gpu."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from orchestrator.errors import ShardReadError
from orchestrator.training.feed import Arrays, Feed
from orchestrator.training.step import to_device


class Source:
    """Steps of two micro batches, numbered; says how many were taken and fails after ``stop``."""

    def __init__(self, stop: int, error: Exception | None = None) -> None:
        self.taken = 0
        self._stop, self._error = stop, error

    def __iter__(self) -> Iterator[list[Arrays]]:
        while self.taken < self._stop:
            self.taken += 1
            yield [{"image": np.full((2, 3), 10 * self.taken + micro), "index": np.arange(2)} for micro in range(2)]
        if self._error is not None:
            raise self._error


def feed_of(source: Source) -> Feed:
    return Feed(iter(source), partial(to_device, columns=("image",), device=torch.device("cpu")), torch.device("cpu"))


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_keep_their_order_and_belong_to_their_arrays(ahead: bool) -> None:
    feed, found = feed_of(Source(4)), []
    for batch in feed:
        if ahead:
            feed.prefetch()
        assert all(set(micro) == {"image"} for micro in batch.tensors)
        found += [int(micro["image"][0, 0]) for micro in batch.tensors]
        assert [int(micro["image"].flat[0]) for micro in batch.arrays] == found[-2:]
    assert found == [10, 11, 20, 21, 30, 31, 40, 41]


def test_one_step_is_taken_ahead_and_no_more() -> None:
    source = Source(4)
    feed = feed_of(source)
    next(feed)
    assert source.taken == 1
    feed.prefetch()
    feed.prefetch()
    assert source.taken == 2
    next(feed)
    assert source.taken == 2


def test_tensors_are_copies_of_what_the_store_may_take_back() -> None:
    memory = np.zeros((2, 3))
    batch = next(
        Feed(
            iter([[{"image": memory}]]),
            partial(to_device, columns=("image",), device=torch.device("cpu")),
            torch.device("cpu"),
        )
    )
    memory[:] = 1
    assert batch.tensors[0]["image"].sum() == 0


def test_an_error_ahead_is_raised_after_the_step_that_it_did_not_concern() -> None:
    feed = feed_of(Source(1, ShardReadError("the store went away")))
    next(feed)
    feed.prefetch()
    with pytest.raises(ShardReadError, match="went away"):
        next(feed)
