"""What a job asks of a cluster that is made for it: nodes, blocks on their way, and where its driver runs. Pure.

Nodes follow from workers and blocks, not from the data, so that a job is rendered without a look at its data set.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec, ObjectiveEntrySpec
from orchestrator.spec.compare_share import resolve_share, resolve_shared
from orchestrator.spec.facts import Facts, MachineFacts, stand_in_facts
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, PretrainSpec
from orchestrator.spec.kinds import Job
from orchestrator.spec.placement import Placement, check_memory, place_readers, place_workers
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.spec.resolve_compare import probe_job
from orchestrator.spec.resolve_workers import count_workers

_NOWHERE = MachineFacts(num_cores=1, num_cpus=1, decoder="")  # of the machine that renders; the nodes' own count

FactsOf = Callable[[PretrainSpec], Facts]


@dataclass(frozen=True)
class LaunchPlan:
    """What a scheduler is asked for."""

    name: str
    placement: Placement
    stream_bytes: int
    """Blocks on their way, over all nodes."""
    uses_cuda: bool
    has_trials: bool = False
    """Whether Tune's relays want room."""


def stand_in(job: PretrainSpec) -> Facts:
    """Facts of a data set that nobody has looked at."""
    return Facts(machine=_NOWHERE, train=stand_in_facts(job))


def resolve_launch(job: Job, cluster: ClusterSpec, facts_of: FactsOf = stand_in) -> LaunchPlan:
    """What a job of any kind takes of a cluster with a section ``launch``.

    Args:
        facts_of: what is known of a job's data; only the width of annotations counts.

    Raises:
        PlanError: the job does not fit the cluster.
    """
    match job:
        case PretrainSpec():
            return launch_run(resolve_plan(job, cluster, facts_of(job)), cluster)
        case CompareSpec():
            return _launch_comparison(job, cluster, facts_of)
        case EvaluateSpec():
            return LaunchPlan(job.name, _place(count_workers(job.workers, cluster), cluster), 0, _uses_cuda(cluster))
        case PrepareSpec():
            return LaunchPlan(job.name, place_readers(cluster) or _place(1, cluster), 0, _uses_cuda(cluster))


def launch_run(plan: Plan, cluster: ClusterSpec) -> LaunchPlan:
    """The same of a run that is resolved already."""
    placement = _place(plan.workers.count, cluster)
    return LaunchPlan(plan.name, placement, plan.stream.object_store_bytes, plan.workers.accelerator == "cuda")


def _launch_comparison(spec: CompareSpec, cluster: ClusterSpec, facts_of: FactsOf) -> LaunchPlan:
    """Whole nodes for each of the runs that go on side by side, and blocks for as many of the widest."""
    share = resolve_share(spec, cluster, _NOWHERE)
    jobs = [probe_job(spec, variant, 1) for entry in spec.objectives for variant in _variants(spec, entry)]
    widest = max(resolve_shared(job, cluster, facts_of(job), share).stream.object_store_bytes for job in jobs)
    slots = sum(group.workers * number for group, number in _place(share.workers, cluster).nodes)
    placement = _place(min(cluster.workers.count, share.at_once * slots), cluster)
    stream_bytes = share.at_once * widest
    check_memory(placement, stream_bytes)
    return LaunchPlan(spec.name, placement, stream_bytes, _uses_cuda(cluster), has_trials=True)


def _variants(spec: CompareSpec, entry: ObjectiveEntrySpec) -> Iterator[ObjectiveEntrySpec]:
    """An objective as it stands, and with the settings that its search tries."""
    yield entry
    if spec.search is not None and entry.search:
        for settings in spec.search.settings(entry.search, entry.label):
            yield entry.model_copy(update={"overrides": {**entry.overrides, **settings}})


def _place(num_workers: int, cluster: ClusterSpec) -> Placement:
    placement = place_workers(num_workers, cluster)
    assert placement is not None, "a cluster with a section launch places workers on nodes"
    return placement


def _uses_cuda(cluster: ClusterSpec) -> bool:
    return cluster.workers.accelerator == "cuda"
