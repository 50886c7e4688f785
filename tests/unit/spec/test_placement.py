"""Which nodes a job takes, and what a cluster can never be."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import PlanError
from orchestrator.spec.plan import Plan

Resolve = Callable[..., Plan]

GROUP: dict[str, Any] = {"name": "gpu", "nodes": 4, "workers": 8, "cpus": 24, "memory": "64Gi"}
INGEST: dict[str, Any] = {
    "name": "ingest",
    "nodes": 2,
    "workers": 0,
    "cpus": 10,
    "memory": "64Gi",
    "labels": {"a": "b"},
}
JOB = {"batch": {"global_size": 2048}}


def place(launch: dict[str, Any] | None = None, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kuberay = {"kind": "kuberay", "namespace": "x", "image": "x:1", "groups": [GROUP]}
    return {
        "workers": {"count": 32, "accelerator": "cuda"},
        "storage": {"data": "s3://d", "runs": "s3://r"},
        "tracking": {"uri": "http://m"},
        **sections,
        "launch": {**kuberay, **(launch or {})},
    }


def test_the_nodes_and_not_this_machine_have_the_cpus(resolve: Resolve) -> None:
    plan = resolve(JOB, place())
    assert (plan.machine.num_cpus, plan.stream.ingest_cpus) == (4 * 24, 4 * (24 - 8))
    half = resolve({**JOB, "workers": 16}, place())
    assert (half.machine.num_cpus, half.stream.ingest_cpus) == (2 * 24, 2 * (24 - 8))


def test_nodes_that_only_read_are_taken_whole(resolve: Resolve) -> None:
    plan = resolve(JOB, place({"groups": [GROUP, INGEST]}, ray={"ingest_labels": {"a": "b"}}))
    assert plan.stream.ingest_cpus == 20


def test_slurm_nodes_share_one_group(resolve: Resolve) -> None:
    group = {key: value for key, value in GROUP.items() if key != "name"}
    launch = {"kind": "slurm", "group": group, "time_limit": "1:00:00", "work_folder": "/shared"}
    plan = resolve(JOB, {**place(), "launch": launch, "storage": {"data": "file:///d", "runs": "file:///r"}})
    assert plan.machine.num_cpus == 4 * 24


@pytest.mark.parametrize(
    ("job", "cluster", "said"),
    [
        ({"workers": 40}, place(), ["workers is 40", "offers 32", "8 are missing"]),
        ({}, place(workers={"count": 40}), ["offers 40", "ever hold 32", "4 nodes x 8", "8 are missing"]),
        ({}, place(workers={"cpus": 3}), ["has 24 CPUs", "need 25", "1 are missing"]),
        (
            {},
            place({"queue": "q", "autoscaler": {}}),
            ["both a queue ('q') and an autoscaler", "leave one of them out"],
        ),
        (
            {},
            place({"queue": "q", "drivers": {}, "groups": [{**GROUP, "name": f"g{n}"} for n in range(6)]}),
            ["9 pod sets (groups, drivers, head and submitter)", "at most 8", "1 too many"],
        ),
        ({}, place({"groups": [{**GROUP, "min_nodes": 1}]}), ["min_nodes 1", "add launch.autoscaler"]),
        ({}, place(storage={"data": "file:///d"}), ["storage.data is file:///d", "s3://BUCKET/PREFIX"]),
        ({}, place({"groups": [{**GROUP, "memory": "2Gi"}]}), ["GiB of shared memory", "2Gi of memory in all"]),
        ({}, place({"groups": [{**GROUP, "object_store": "10Mi"}]}), ["the cluster gives 40 MiB", "'object_store'"]),
        ({}, place({"groups": [GROUP, INGEST]}), ["group ingest has no workers", "they would idle"]),
        ({}, place(ray={"ingest_labels": {"a": "b"}}), ["ray.ingest_labels is a=b", "no group carries"]),
        (
            {},
            place({"groups": [{**GROUP, "labels": {"a": "b"}}]}, ray={"ingest_labels": {"a": "b"}}),
            ["group gpu holds workers"],
        ),
    ],
)
def test_what_a_cluster_can_never_be_is_refused_with_the_number_missing(
    resolve: Resolve, job: dict[str, Any], cluster: dict[str, dict[str, Any]], said: list[str]
) -> None:
    with pytest.raises(PlanError) as caught:
        resolve({**JOB, **job}, cluster)
    assert all(part in str(caught.value) for part in said), caught.value
