"""How many workers a job takes of a cluster, and what each of them is. Pure."""

import math
from fractions import Fraction

from orchestrator.errors import PlanError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import MachineFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import WorkersPlan
from orchestrator.spec.resolve_batch import common_size, nearest_multiples


def count_workers(asked: int | None, cluster: ClusterSpec) -> int:
    """As many as a job asks for; else all that the cluster offers.

    Raises:
        PlanError: it does not offer so many.
    """
    offered = cluster.workers.count
    count = asked or offered
    if count > offered:
        raise PlanError(
            f"workers is {count}, but cluster '{cluster.name}' offers {offered}: {count - offered} are missing; "
            f"lower 'workers' in the job or raise 'workers.count' in the cluster file"
        )
    return count


def nodes_of_workers(num_workers: int, cluster: ClusterSpec) -> tuple[int, Fraction]:
    """Nodes that so many workers stand on in a Ray that runs already, and their share of what it offers."""
    per_node = cluster.workers.per_node or cluster.workers.count
    taken, offered = (math.ceil(count / per_node) for count in (num_workers, cluster.workers.count))
    return taken, Fraction(1) if cluster.ray.ingest_labels else Fraction(taken, offered)


def machine_of_workers(machine: MachineFacts, num_workers: int, cluster: ClusterSpec) -> MachineFacts:
    """The nodes of so many workers alone; all where others read for them."""
    _, share = nodes_of_workers(num_workers, cluster)
    taken = {name: max(1, int(share * getattr(machine, name))) for name in ("num_cores", "num_cpus")}
    return machine.model_copy(update=taken)


def resolve_workers(job: PretrainSpec, cluster: ClusterSpec, machine: MachineFacts) -> WorkersPlan:
    """The workers that train, among which every global batch divides.

    Raises:
        PlanError: the cluster does not offer so many, or a batch does not divide.
    """
    offered, count = cluster.workers.count, count_workers(job.workers, cluster)
    common = common_size(job)
    admissible = tuple(number for number in range(1, min(common, 1024) + 1) if common % number == 0)
    for key, size in job.global_sizes():
        if size % count:
            near = max(number for number in admissible if number <= offered)
            raise PlanError(
                f"{key} {size:,} does not divide by {count} workers; use {nearest_multiples(size, count)}, "
                f"or workers: {near}"
            )
    return _plan_workers(count, cluster, machine, admissible)


def resolve_judges(asked: int | None, cluster: ClusterSpec, machine: MachineFacts) -> WorkersPlan:
    """The workers that judge; any number of them finds the same.

    Raises:
        PlanError: the cluster does not offer so many.
    """
    count = count_workers(asked, cluster)
    return _plan_workers(count, cluster, machine_of_workers(machine, count, cluster), admissible=(count,))


def _plan_workers(count: int, cluster: ClusterSpec, machine: MachineFacts, admissible: tuple[int, ...]) -> WorkersPlan:
    return WorkersPlan(
        count=count,
        accelerator=cluster.workers.accelerator,
        cpus=cluster.workers.cpus,
        threads=cluster.workers.threads or max(1, machine.num_cores // count),
        admissible=admissible,
    )
