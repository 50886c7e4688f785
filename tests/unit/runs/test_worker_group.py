"""How often a group of workers is looked at."""

import pytest

from orchestrator.runs.worker_group import poll_s


@pytest.mark.parametrize(("num_workers", "seconds"), [(1, 0.25), (8, 0.25), (64, 0.5), (1000, 2.0)])
def test_few_workers_are_looked_at_often_and_many_no_more_than_ray_would(num_workers: int, seconds: float) -> None:
    assert poll_s(num_workers) == seconds
