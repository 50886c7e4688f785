"""Which nodes of a cluster a job takes, and what they offer. Pure; only for clusters with a section ``launch``."""

import math
import posixpath
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.errors import PlanError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import SCRATCH_FOLDER, KubeRaySpec
from orchestrator.spec.facts import MachineFacts
from orchestrator.spec.nodes import NodesSpec, quantity_bytes

MOST_POD_SETS = 8  # of one job that Kueue admits
_OWN_POD_SETS = 2  # head and submitter
_LEAST_STORE_BYTES = 2**30
_STORE_MARGIN = 5 / 4  # Ray keeps more than our blocks in its store: broadcast readers, evaluation
_SHARED_MEMORY_BYTES = 2**30  # beside Ray's store: NCCL's and gloo's own segments


@dataclass(frozen=True)
class Placement:
    """The nodes of one job."""

    nodes: tuple[tuple[NodesSpec, int], ...]
    """Groups with how many of their nodes the job takes."""
    num_workers: int
    cpus_per_worker: int
    ingests_apart: bool
    """Whether nodes without workers read and decode, not the workers' own."""

    @property
    def num_cpus(self) -> int:
        """Logical CPUs of all nodes."""
        return sum(spec.cpus * number for spec, number in self.nodes)

    @property
    def ingest_cpus(self) -> int:
        """Logical CPUs that read and decode."""
        if self.ingests_apart:
            return sum(spec.cpus * number for spec, number in self.nodes if not spec.workers)
        trains = sum(spec.cpus * number for spec, number in self.nodes if spec.workers)
        return trains - self.num_workers * self.cpus_per_worker

    @property
    def object_store_bytes(self) -> int:
        """What blocks may take of the memory of the nodes that read."""
        reading = [(spec, number) for spec, number in self.nodes if bool(spec.workers) != self.ingests_apart]
        return sum(quantity_bytes(spec.object_store) * number for spec, number in reading)

    @property
    def num_worker_nodes(self) -> int:
        """Nodes that hold workers."""
        return sum(number for spec, number in self.nodes if spec.workers)

    @property
    def num_ingest_nodes(self) -> int:
        """Nodes that read and decode."""
        if self.ingests_apart:
            return sum(number for spec, number in self.nodes if not spec.workers)
        return self.num_worker_nodes

    def machine(self, decoder: str) -> MachineFacts:
        """What executes the plan, all nodes together."""
        return MachineFacts(num_cores=max(1, self.num_cpus // 2), num_cpus=self.num_cpus, decoder=decoder)

    def store_bytes(self, stream_bytes: int) -> int:
        """Ray's object store on each node, for a stream that takes ``stream_bytes`` over all of them."""
        share = stream_bytes / max(1, min(self.num_worker_nodes, self.num_ingest_nodes))
        return max(_LEAST_STORE_BYTES, math.ceil(share * _STORE_MARGIN))

    def shared_memory_bytes(self, stream_bytes: int) -> int:
        """Size of ``/dev/shm`` on each node, in whole MiB."""
        return math.ceil((self.store_bytes(stream_bytes) + _SHARED_MEMORY_BYTES) / 2**20) * 2**20


def place_workers(num_workers: int, cluster: ClusterSpec) -> Placement | None:
    """Take nodes for a number of workers, groups in the order of the file; None where Ray is not made for the job.

    Raises:
        PlanError: the cluster file contradicts itself, or the job needs more than the cluster can ever be.
    """
    if cluster.launch is None:
        return None
    groups = cluster.launch.groups if isinstance(cluster.launch, KubeRaySpec) else (cluster.launch.group,)
    _check_capacity(groups, cluster)
    if isinstance(cluster.launch, KubeRaySpec):
        _check_kuberay(cluster, cluster.launch)
    taken, left = [], num_workers
    for group in groups:
        number = min(group.nodes, math.ceil(left / group.workers)) if group.workers else group.nodes
        left = max(0, left - number * group.workers)
        if number:
            taken.append((group, number))
    placement = Placement(tuple(taken), num_workers, cluster.workers.cpus, bool(cluster.ray.ingest_labels))
    _check_ingest(placement, cluster)
    return placement


def place_readers(cluster: ClusterSpec) -> Placement | None:
    """All nodes that hold no workers, for a job that has none; None where there are none.

    Raises:
        PlanError: the cluster file contradicts itself.
    """
    if not isinstance(cluster.launch, KubeRaySpec):
        return None
    readers = tuple((group, group.nodes) for group in cluster.launch.groups if not group.workers)
    if not readers:
        return None
    _check_kuberay(cluster, cluster.launch)
    return Placement(readers, 0, cluster.workers.cpus, ingests_apart=True)


def check_memory(placement: Placement, stream_bytes: int) -> None:
    """Refuse nodes whose memory the object store would take.

    Raises:
        PlanError: says both sizes.
    """
    needed = placement.shared_memory_bytes(stream_bytes)
    for group, _ in placement.nodes:
        if needed >= quantity_bytes(group.memory):
            raise PlanError(
                f"the stream needs {needed / 2**30:.1f} GiB of shared memory on each node, and nodes have "
                f"{group.memory} of memory in all; raise 'memory' under launch, or lower 'object_store'"
            )


def _check_capacity(groups: tuple[NodesSpec, ...], cluster: ClusterSpec) -> None:
    most = sum(group.nodes * group.workers for group in groups)
    offered = cluster.workers.count
    if offered > most:
        sums = " + ".join(f"{group.nodes} nodes x {group.workers}" for group in groups if group.workers) or "none"
        raise PlanError(
            f"cluster '{cluster.name}' offers {offered} workers (workers.count), but its nodes can ever hold {most} "
            f"({sums}): {offered - most} are missing; raise 'nodes' under launch, or lower workers.count"
        )
    for group in groups:
        needed = group.workers * cluster.workers.cpus + (not cluster.ray.ingest_labels)
        if group.workers and group.cpus < needed:
            raise PlanError(
                f"a node of cluster '{cluster.name}' has {group.cpus} CPUs; {group.workers} workers x "
                f"{cluster.workers.cpus} and the readers beside them need {needed}: {needed - group.cpus} are missing; "
                f"raise 'cpus' under launch, or lower workers.cpus"
            )


def _check_kuberay(cluster: ClusterSpec, launch: KubeRaySpec) -> None:
    if launch.queue is not None and launch.autoscaler is not None:
        raise PlanError(
            f"cluster '{cluster.name}': launch has both a queue ('{launch.queue}') and an autoscaler; Kueue admits a "
            f"job of a fixed size only: leave one of them out"
        )
    number = len(launch.groups) + (launch.drivers is not None) + _OWN_POD_SETS
    if launch.queue is not None and number > MOST_POD_SETS:
        raise PlanError(
            f"cluster '{cluster.name}': launch has {number} pod sets (groups, drivers, head and submitter), and Kueue "
            f"admits at most {MOST_POD_SETS} a job: {number - MOST_POD_SETS} too many; merge groups, or leave "
            f"launch.queue out"
        )
    for key, uri in (("data", cluster.storage.data), ("runs", cluster.storage.runs)):
        if uri.startswith("file://"):
            raise PlanError(
                f"cluster '{cluster.name}': storage.{key} is {uri}, a folder that its pods do not share; "
                f"wanted a bucket, s3://BUCKET/PREFIX"
            )
    if (cluster.tracking.uri or "").startswith("sqlite:"):
        raise PlanError(
            f"cluster '{cluster.name}': tracking.uri is {cluster.tracking.uri}, a file of the head's pod, which goes "
            f"with it; wanted a tracking server"
        )
    _check_cache(cluster, launch)
    if launch.autoscaler is None:
        for group in launch.groups:
            if group.min_nodes:
                raise PlanError(
                    f"cluster '{cluster.name}': group {group.name} has min_nodes {group.min_nodes}, which only an "
                    f"autoscaler reads; add launch.autoscaler, or leave min_nodes out"
                )


def _check_cache(cluster: ClusterSpec, launch: KubeRaySpec) -> None:
    """A pod that holds more than its local disk is evicted, and the next one fills its own again."""
    cache = cluster.storage.cache
    if cache is None:
        return
    if not PurePosixPath(posixpath.normpath(cache.folder)).is_relative_to(SCRATCH_FOLDER):
        raise PlanError(
            f"cluster '{cluster.name}': storage.cache.folder is {cache.folder}; wanted one below {SCRATCH_FOLDER}, the "
            f"local disk of its pods"
        )
    if cache.max_bytes >= quantity_bytes(launch.scratch):
        raise PlanError(
            f"cluster '{cluster.name}': storage.cache.max_bytes is {cache.max_bytes / 2**30:,.1f} GiB, and the local "
            f"disk of a pod has {launch.scratch} (launch.scratch), for spilled objects and checkpoints too: raise it, "
            f"or lower max_bytes"
        )


def _check_ingest(placement: Placement, cluster: ClusterSpec) -> None:
    labels = cluster.ray.ingest_labels
    if not labels:
        for group in cluster.launch.groups if isinstance(cluster.launch, KubeRaySpec) else ():
            if not group.workers:
                raise PlanError(
                    f"cluster '{cluster.name}': group {group.name} has no workers, and without ray.ingest_labels "
                    f"nothing reads on its nodes: they would idle; give it labels and name them there, or leave it out"
                )
        return
    wanted = ", ".join(f"{key}={value}" for key, value in labels.items())
    if not isinstance(cluster.launch, KubeRaySpec):
        raise PlanError(f"ray.ingest_labels is {wanted}, but the nodes of a Slurm job carry no labels; leave it out")
    for group in cluster.launch.groups:
        if (labels.items() <= group.labels.items()) == bool(group.workers):
            kind = "holds workers" if group.workers else "holds no workers and does not carry them"
            raise PlanError(
                f"ray.ingest_labels is {wanted}, but group {group.name} {kind}; give these labels to all groups "
                f"without workers, and to no other"
            )
    if not placement.ingest_cpus:
        raise PlanError(f"ray.ingest_labels is {wanted}, but no group carries these labels; add one with workers: 0")
