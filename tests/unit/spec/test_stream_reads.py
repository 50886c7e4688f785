"""A read task is bounded in samples, in blocks and in bytes."""

from collections.abc import Callable

import pytest

from orchestrator.spec.describe import describe_plan
from orchestrator.spec.facts import Facts
from orchestrator.spec.plan import Plan
from orchestrator.spec.stream_reads import blocks_per_task, mean_stored_bytes

Resolve = Callable[..., Plan]


@pytest.mark.parametrize(
    ("micro_size", "sample_bytes", "blocks"),
    [
        (256, 0, 8),  # synthetic
        (256, 100_000, 8),  # 2,048 samples
        (256, 500_000, 2),
        (64, 1_500_000, 2),
        (256, 1_500_000, 1),  # at least
        (16, 100, 64),
    ],
)
def test_a_task_has_no_more_blocks_than_their_bytes_allow(micro_size: int, sample_bytes: float, blocks: int) -> None:
    assert blocks_per_task(2048, micro_size, 1, sample_bytes) == blocks


def test_the_mean_sample_is_that_of_the_mixture(resolve: Resolve, facts: Facts) -> None:
    """Three of a thousand bytes to one of 3 MB."""
    small = facts.train[0].model_copy(update={"num_samples": 10_000, "bytes": 10_000_000})
    large = facts.train[0].model_copy(update={"num_samples": 10_000, "bytes": 30_000_000_000})
    known = facts.model_copy(update={"train": (small, large)})
    train = [{"uri": "a", "weight": 3}, {"uri": "b", "weight": 1}]
    plan = resolve({"data": {"kind": "shards", "train": train}}, facts=known)
    assert mean_stored_bytes(plan.data.sources) == 750_750
    assert plan.stream.blocks_per_task == 2**28 // (128 * 750_750) == 2
    said = dict(describe_plan(plan))["stream"].splitlines()[0]
    assert "up to 2 blocks a read task, 183.3 MiB as stored; 2,048 samples" in said


def test_synthetic_data_stores_nothing(resolve: Resolve) -> None:
    plan = resolve({"data": {"kind": "synthetic", "num_samples": 10_000}})
    assert plan.stream.blocks_per_task == plan.stream.window // 128
    assert "stored" not in dict(describe_plan(plan))["stream"]
