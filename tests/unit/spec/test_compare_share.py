"""What a run of a comparison has to itself is all that it takes."""

from typing import Any

import pytest

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare_plan import SharePlan
from orchestrator.spec.compare_share import resolve_shared
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec

JOB = {
    "kind": "pretrain",
    "name": "one-of-them",
    "objective": {"name": "clip"},
    "data": {"kind": "shards", "train": "scenes/train"},
    "model": {"preset": "vit_tiny_64"},
    "batch": {"global_size": 256},
    "budget": {"samples": 100_000},
    "optimizer": {"learning_rate": 1e-3},
}


@pytest.mark.parametrize(("at_once", "queued_tasks"), [(1, 1), (2, 0)])
def test_runs_side_by_side_start_no_task_beyond_their_own_cpus(
    facts: Facts, cluster_document: dict[str, Any], at_once: int, queued_tasks: int
) -> None:
    share = SharePlan(at_once=at_once, workers=1, num_cores=1, num_cpus=4, object_store_bytes=2**30)
    machine = MachineFacts(num_cores=4, num_cpus=4 * at_once, decoder="d")
    cluster, own = ClusterSpec.model_validate(cluster_document), facts.model_copy(update={"machine": machine})
    plan = resolve_shared(PretrainSpec.model_validate(JOB), cluster, own, share)
    assert (plan.workers.count, plan.stream.ingest_cpus, plan.stream.queued_tasks) == (1, 3, queued_tasks)
