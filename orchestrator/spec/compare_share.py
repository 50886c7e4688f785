"""How many runs of a comparison go on side by side, and what each of them has to itself.

The proof that none of them is ever half placed: as many runs as start together hold their workers, and the CPUs that
read for them, out of disjoint shares of the cluster; a run asks for all its workers at once (Ray's placement groups),
and another one starts only when one has given its share back.
"""

from orchestrator.errors import PlanError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import KubeRaySpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_plan import SharePlan
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.placement import place_workers
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan


def resolve_share(spec: CompareSpec, cluster: ClusterSpec, machine: MachineFacts) -> SharePlan:
    """As many runs at once as workers, CPUs and nodes allow, and as the larger of search and verdict has.

    Raises:
        PlanError: not even one fits.
    """
    workers = spec.run.workers or cluster.workers.count
    if workers > cluster.workers.count:
        raise PlanError(
            f"run.workers is {workers}, but cluster '{cluster.name}' offers {cluster.workers.count}; lower it, or "
            f"raise 'workers.count' in the cluster file"
        )
    num_trials = max(len(spec.objectives) * len(spec.seeds), spec.num_search_trials)
    limits = [num_trials, cluster.workers.count // workers, spec.trials_at_once or num_trials]
    if cluster.launch is None:
        limits.append(max(1, machine.num_cpus // (workers * cluster.workers.cpus + 1)))
    else:
        limits.append(_whole_nodes(workers, cluster))
        if isinstance(cluster.launch, KubeRaySpec) and cluster.launch.drivers is not None:
            limits.append(cluster.launch.drivers.slots)
    at_once = min(limits)
    placement = place_workers(workers, cluster)
    if placement is not None:  # whole nodes, of any number of runs at once
        own = placement.machine(machine.decoder)
        return SharePlan(
            at_once=at_once,
            workers=workers,
            num_cores=own.num_cores,
            num_cpus=own.num_cpus,
            object_store_bytes=placement.object_store_bytes,
        )
    return SharePlan(
        at_once=at_once,
        workers=workers,
        num_cores=max(1, machine.num_cores // at_once),
        num_cpus=machine.num_cpus // at_once,
        object_store_bytes=cluster.ray.object_store_bytes // at_once,
    )


def resolve_shared(job: PretrainSpec, cluster: ClusterSpec, facts: Facts, share: SharePlan) -> Plan:
    """The Plan of one of the runs, in its share of the cluster; raises as ``resolve_plan``."""
    plan = resolve_plan(job, _share_cluster(cluster, share), _share_facts(facts, share))
    if share.at_once == 1:
        return plan
    # A task that waits for a CPU would get another run's, and keep it for as long as its blocks wait to be read.
    return plan.model_copy(update={"stream": plan.stream.model_copy(update={"queued_tasks": 0})})


def _share_cluster(cluster: ClusterSpec, share: SharePlan) -> ClusterSpec:
    """The cluster as one of the runs sees it: its share."""
    ray = cluster.ray.model_copy(update={"object_store_bytes": share.object_store_bytes})
    if cluster.launch is None:
        ray = ray.model_copy(update={"num_cpus": share.num_cpus})
    workers = cluster.workers.model_copy(update={"count": share.workers})
    return cluster.model_copy(update={"ray": ray, "workers": workers})


def _share_facts(facts: Facts, share: SharePlan) -> Facts:
    """The machine as one of the runs sees it."""
    machine = facts.machine.model_copy(update={"num_cpus": share.num_cpus, "num_cores": share.num_cores})
    return facts.model_copy(update={"machine": machine})


def _whole_nodes(workers: int, cluster: ClusterSpec) -> int:
    """Runs at once where nodes are made for the job: each has whole nodes, and one at a time where others read."""
    placement = place_workers(workers, cluster)
    every = place_workers(cluster.workers.count, cluster)
    assert placement is not None
    assert every is not None
    return 1 if placement.ingests_apart else max(1, every.num_worker_nodes // placement.num_worker_nodes)
