"""Whether the nodes of a Ray that runs already hold what its cluster file promises, and what a job asks for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.runs.check import Finding
from orchestrator.runs.prepare import machine_facts
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.job import PrepareSpec
from orchestrator.spec.kinds import Job

ROOM = "room"
"""Subject of the finding; nodes that are missing may still come, for which an attempt waits ``ray.patience_s``."""


def find_room(cluster: ClusterSpec, job: Job | None = None) -> Finding:
    """Hold the nodes that are there now against what a job asks for, or against all that the cluster file offers."""
    import ray

    from orchestrator.runs.session import ray_session

    there = cluster.model_copy(
        update={"ray": cluster.ray.model_copy(update={"address": cluster.ray.address or "auto"})}
    )
    try:
        with ray_session(there, machine_facts(there)):
            nodes = [node for node in ray.nodes() if node["Alive"]]
    except OrchestratorError as error:
        return Finding(ROOM, False, str(error))
    num_workers = cluster.workers.count if job is None else _num_workers(job, cluster)
    if missing := list(missing_room(nodes, cluster, num_workers)):
        wait = f"an attempt waits {cluster.ray.patience_s:,.0f} s for nodes to come (ray.patience_s)"
        return Finding(ROOM, False, f"{'; '.join(missing)}; start more nodes, or correct the cluster file; {wait}")
    have = ", ".join(f"{_total(nodes, kind):,.0f} {kind}s" for kind in ("CPU", "GPU") if _total(nodes, kind))
    return Finding(ROOM, True, f"{len(nodes)} nodes with {have}; {num_workers} workers fit")


def missing_room(nodes: Sequence[Mapping[str, Any]], cluster: ClusterSpec, num_workers: int) -> Iterator[str]:
    """What nodes, as ``ray.nodes()`` tells of them, lack, each with both numbers."""
    workers = cluster.workers
    devices = " and a GPU" if workers.accelerator == "cuda" else ""
    slots = sum(_num_slots(node, cluster) for node in nodes)
    if slots < num_workers:
        have = f"{_total(nodes, 'CPU'):,.0f} CPUs"
        have += f" and {_total(nodes, 'GPU'):,.0f} GPUs" if devices else ""
        yield (
            f"{num_workers} workers of {workers.cpus} CPUs{devices} are asked for, and {len(nodes)} nodes with {have} "
            f"have room for {slots}: {num_workers - slots} are missing"
        )
    promised, num_cpus = cluster.ray.num_cpus or 0, _total(nodes, "CPU")
    if promised > num_cpus:
        yield f"ray.num_cpus is {promised:,}, and nodes have {num_cpus:,.0f}: {promised - num_cpus:,.0f} are missing"
    labels = cluster.ray.ingest_labels
    if labels and not any(_resource(node, "CPU") and labels.items() <= node["Labels"].items() for node in nodes):
        wanted = ", ".join(f"{key}={value}" for key, value in labels.items())
        yield f"none of {len(nodes)} nodes carries the labels {wanted} (ray.ingest_labels) and has CPUs to read with"


def _num_slots(node: Mapping[str, Any], cluster: ClusterSpec) -> int:
    """Workers that a node can hold."""
    slots = _resource(node, "CPU") // cluster.workers.cpus
    return int(min(slots, _resource(node, "GPU")) if cluster.workers.accelerator == "cuda" else slots)


def _num_workers(job: Job, cluster: ClusterSpec) -> int:
    if isinstance(job, PrepareSpec):
        return 0
    asked = job.run.workers if isinstance(job, CompareSpec) else job.workers
    return asked or cluster.workers.count


def _total(nodes: Sequence[Mapping[str, Any]], kind: str) -> float:
    return sum(_resource(node, kind) for node in nodes)


def _resource(node: Mapping[str, Any], kind: str) -> float:
    return float(node["Resources"].get(kind, 0.0))
