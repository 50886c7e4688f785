"""Whether a job's queue could ever admit it: what the rendered pods ask for against the queue's quotas.

Refused is only what no state of the cluster would let in. Which pods may go to which nodes follows from node labels, as
Kueue follows them; taints, and that pods of one group all go to one flavor, are left to Kueue.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from orchestrator.errors import PlanError
from orchestrator.launch.kuberay import build_manifests
from orchestrator.launch.kueue import Flavor, ResourceGroup, parse_quantity, read_queue
from orchestrator.launch.pods import Manifest
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import KubeRaySpec
from orchestrator.spec.launch_plan import LaunchPlan
from orchestrator.spec.load import cluster_file

_IN_BYTES = ("memory", "ephemeral-storage")

Amounts = Mapping[str, Fraction]
"""By resource."""


@dataclass(frozen=True)
class PodSet:
    """Pods of a job that are alike, as Kueue admits them."""

    requests: Amounts
    """Of all of them together."""
    selector: Mapping[str, str]


def queue_file(cluster: str) -> Path:
    """Where the manifests of a cluster's queue lie, if it has any: beside its cluster file."""
    return cluster_file(cluster).with_name("queue.yaml")


def check_quota(plan: LaunchPlan, cluster: ClusterSpec, file: Path) -> str | None:
    """What a job's pods ask for and whether its queue can hold it, in words; None for a cluster without a queue.

    Raises:
        PlanError: the queue is not in the file, has no quota for a resource, or too little to ever admit the job.
    """
    launch = cluster.launch
    if not isinstance(launch, KubeRaySpec) or launch.queue is None:
        return None
    ray_job = build_manifests(plan, launch, {}, cluster.tracking.metrics_address)[-1]
    pod_sets = list(_pod_sets(ray_job["spec"]))
    asked = _add_up(pod_sets)
    said = ", ".join(_amount(name, number) for name, number in asked.items())
    if not file.exists():
        return f"queue '{launch.queue}': its quota is not known, there is no {file}; pods ask for {said}"
    groups = read_queue(file, launch.queue, launch.namespace)
    where = f"{file}: queue '{launch.queue}'"
    covered = {resource for flavors in groups for flavor in flavors for resource in flavor.quota}
    if uncovered := ", ".join(_amount(name, number) for name, number in asked.items() if name not in covered):
        raise PlanError(
            f"{where} has no quota for {uncovered}, which the job's pods ask for; add it to the ClusterQueue"
        )
    if short := [line for flavors in groups for line in _shortages(pod_sets, flavors, where)]:
        raise PlanError(
            f"{where} can never admit the job: {'; '.join(short)}. Raise nominalQuota there if the cluster has it, "
            f"or take fewer workers"
        )
    return f"queue '{launch.queue}' can hold it; pods ask for {said}"


def _pod_sets(spec: Manifest) -> Iterator[PodSet]:
    """Head, worker groups and submitter: all that a job of fixed size waits for."""
    cluster = spec["rayClusterSpec"]
    yield _pod_set(cluster["headGroupSpec"]["template"], 1)
    for group in cluster["workerGroupSpecs"]:
        yield _pod_set(group["template"], group["replicas"])
    yield _pod_set(spec["submitterPodTemplate"], 1)


def _pod_set(template: Manifest, number: int) -> PodSet:
    (container,) = template["spec"]["containers"]
    requests = container["resources"]["requests"]
    selector = template["spec"].get("nodeSelector", {})
    return PodSet({name: number * parse_quantity(quantity) for name, quantity in requests.items()}, selector)


def _add_up(pod_sets: Sequence[PodSet]) -> dict[str, Fraction]:
    asked: dict[str, Fraction] = defaultdict(Fraction)
    for pods in pod_sets:
        for name, number in pods.requests.items():
            asked[name] += number
    return dict(asked)


def _shortages(pod_sets: Sequence[PodSet], flavors: ResourceGroup, where: str) -> Iterator[str]:
    """Of each resource: pods that can only go to some of the flavors ask for more than these have together."""
    fitting = [(_fitting(pods, flavors, where), pods) for pods in pod_sets]
    every = frozenset(flavor.name for flavor in flavors)
    resources = {name for flavor in flavors for name in flavor.quota}
    said: set[str] = set()
    for names in sorted({every, *(names for names, _ in fitting)}, key=lambda names: (len(names), sorted(names))):
        inside = [flavor for flavor in flavors if flavor.name in names]
        for resource, asked in _add_up([pods for of_pods, pods in fitting if of_pods <= names]).items():
            quota: Fraction | float = sum(flavor.quota.get(resource, Fraction(0)) for flavor in inside)
            if resource in resources - said and asked > quota:
                said.add(resource)
                yield (
                    f"pods ask for {_amount(resource, asked)} of {' and '.join(sorted(names))}, whose quota is "
                    f"{_amount(resource, quota)}: {_amount(resource, asked - quota)} are missing"
                )


def _fitting(pods: PodSet, flavors: Sequence[Flavor], where: str) -> frozenset[str]:
    """The flavors on whose nodes pods may go: a label that any of them has must be the one that pods select."""
    known = {key for flavor in flavors for key in flavor.labels}
    wanted = {key: value for key, value in pods.selector.items() if key in known}
    names = frozenset(flavor.name for flavor in flavors if wanted.items() <= flavor.labels.items())
    if not names:
        labels = ", ".join(f"{key}={value}" for key, value in wanted.items())
        raise PlanError(f"{where} has no flavor of nodes with {labels}; add it, or correct markets and groups")
    return names


def _amount(resource: str, number: Fraction | float) -> str:
    shown, unit = (number / 2**30, " GiB") if resource in _IN_BYTES else (number, "")
    return f"{float(shown):,.1f}".removesuffix(".0") + f"{unit} {resource}"
