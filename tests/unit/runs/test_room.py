"""What nodes lack, as Ray tells of them; with a real Ray: ``tests/ray/test_submit.py``."""

from typing import Any

import pytest

from orchestrator.runs.room import missing_room
from orchestrator.spec.cluster import ClusterSpec

WORKERS = {"count": 8, "accelerator": "cuda", "cpus": 2}


def cluster(**sections: Any) -> ClusterSpec:
    places = {"data": "s3://data", "runs": "s3://runs"}
    return ClusterSpec.model_validate({"name": "there", "workers": WORKERS, "storage": places, **sections})


def node(cpus: float, gpus: float = 0.0, **labels: str) -> dict[str, Any]:
    return {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus, "memory": 1e9}, "Labels": labels}


def test_a_cluster_that_holds_what_is_asked_lacks_nothing() -> None:
    place = cluster(ray={"num_cpus": 48, "ingest_labels": {"role": "ingest"}})
    assert list(missing_room([node(16, 4), node(16, 4), node(16, role="ingest")], place, 8)) == []


@pytest.mark.parametrize(
    ("nodes", "num_workers", "says"),
    [
        ([node(64, 4)], 8, r"1 nodes with 64 CPUs and 4 GPUs have room for 4: 4 are missing"),
        ([node(6, 8), node(2, 8)], 8, r"have room for 4: 4 are missing"),  # CPUs of one node serve no GPU of another
        ([node(64), node(64)], 1, r"and 0 GPUs have room for 0: 1 are missing"),
        ([], 2, r"0 nodes with 0 CPUs and 0 GPUs have room for 0: 2 are missing"),
    ],
)
def test_workers_without_a_place_are_counted(nodes: list[dict[str, Any]], num_workers: int, says: str) -> None:
    [line] = missing_room(nodes, cluster(), num_workers)
    assert says in line
    assert f"{num_workers} workers of 2 CPUs and a GPU" in line


def test_what_the_file_promises_and_nodes_do_not_hold_is_named() -> None:
    place = cluster(
        ray={"num_cpus": 96, "ingest_labels": {"role": "ingest"}}, workers={**WORKERS, "accelerator": "cpu"}
    )
    cpus, labels = missing_room([node(32), node(0, role="ingest")], place, 8)
    assert cpus == "ray.num_cpus is 96, and nodes have 32: 64 are missing"
    assert labels.startswith("none of 2 nodes carries the labels role=ingest")
