"""A small job on a small cluster that resolve, for tests that change one thing about them."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan

JOB: dict[str, Any] = {
    "kind": "pretrain",
    "name": "small",
    "objective": {"name": "clip"},
    "data": {"kind": "shards", "train": "scenes/train"},
    "model": {"preset": "vit_tiny_64"},
    "batch": {"global_size": 256},
    "budget": {"samples": 100_000},
    "optimizer": {"learning_rate": 1e-3},
}
CLUSTER: dict[str, Any] = {
    "name": "laptop",
    "workers": {"count": 2, "accelerator": "cpu"},
    "storage": {"data": "file:///data", "runs": "file:///runs"},
}
FACTS = Facts(
    machine=MachineFacts(num_cores=2, num_cpus=4, decoder="pillow 13.0.0"),
    train=(
        ShardsFacts(
            uri="file:///data/scenes/train", digest="0123456789abcdef", num_shards=16, num_samples=4000, bytes=9_000_000
        ),
    ),
)


@pytest.fixture
def facts() -> Facts:
    """What is known about the small job's data and machine."""
    return FACTS


@pytest.fixture
def cluster_document() -> dict[str, Any]:
    """The small cluster as its file would say it."""
    return CLUSTER


@pytest.fixture
def resolve() -> Callable[..., Plan]:
    """``resolve(job, cluster, facts)``: top-level keys of ``job`` replace, those of ``cluster`` add to, the small."""

    def resolve(job: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, facts: Facts = FACTS) -> Plan:
        spec = PretrainSpec.model_validate({**JOB, **(job or {})})
        sections = {name: {**CLUSTER.get(name, {}), **keys} for name, keys in (cluster or {}).items()}
        return resolve_plan(spec, ClusterSpec.model_validate({**CLUSTER, **sections}), facts)

    return resolve
