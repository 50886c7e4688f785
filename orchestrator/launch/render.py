"""``orchestrator render``: what would be handed to a cluster's scheduler, as text. Reads no data and starts nothing.

The nodes that a job takes follow from its workers and blocks, not from its data; the data set is read by the run.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from orchestrator.errors import PlanError
from orchestrator.launch.kuberay import build_manifests
from orchestrator.launch.quota import check_quota
from orchestrator.launch.slurm import build_script
from orchestrator.redaction import redact
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import KubeRaySpec
from orchestrator.spec.cluster_slurm import SlurmSpec
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts, stand_in_facts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.kinds import Job
from orchestrator.spec.placement import place_workers
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan

_NOWHERE = MachineFacts(num_cores=1, num_cpus=1, decoder="")  # of the machine that renders; the nodes' own count


def render_job(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts] = (), queue: Path | None = None
) -> str:
    """Kubernetes manifests as YAML, or a Slurm batch script.

    Args:
        train: what the indexes say; only where the objective reads annotations, whose width counts in a block.
        queue: the manifests of the cluster's queue, whose quotas the pods are held against.

    Raises:
        PlanError: the job does not fit the cluster or its queue, the cluster is not one that is made for a job, or the
            text would hold a secret.
    """
    if cluster.launch is None:
        raise PlanError(
            f"cluster '{cluster.name}' has no section 'launch': Ray starts there with 'orchestrator run', or runs "
            f"already; there is nothing to render"
        )
    plan = resolve_plan(job, cluster, Facts(machine=_NOWHERE, train=tuple(train) or stand_in_facts(job)))
    if queue is not None:
        check_quota(plan, cluster, queue)
    files = job_files(job, cluster)
    text = _render(plan, cluster, cluster.launch, files)
    if redact(text) != text:
        raise PlanError(
            "the rendered text would hold a secret: a value of this shell's secret variables, or a user in a URI; "
            "take it out of job and cluster file, and name where it lies under launch"
        )
    return text


def job_files(job: Job, cluster: ClusterSpec) -> dict[str, str]:
    """Job and cluster as the driver reads them on the cluster, overrides applied: by then Ray runs already."""
    there = cluster.model_copy(update={"ray": cluster.ray.model_copy(update={"address": "auto"})})
    return {
        name: yaml.safe_dump(spec.model_dump(mode="json", by_alias=True, exclude_unset=True), sort_keys=False)
        for name, spec in (("job.yaml", job), ("cluster.yaml", there))
    }


def _render(plan: Plan, cluster: ClusterSpec, launch: KubeRaySpec | SlurmSpec, files: dict[str, str]) -> str:
    placement = place_workers(plan.workers.count, cluster)
    assert placement is not None, "a cluster with a section launch places workers on nodes"
    if isinstance(launch, SlurmSpec):
        return build_script(plan, placement, launch, files)
    manifests = build_manifests(plan, placement, launch, files, cluster.tracking.metrics_address)
    return yaml.dump_all(manifests, Dumper=_PlainDumper, sort_keys=False, explicit_start=True, width=120)


class _PlainDumper(yaml.SafeDumper):
    """YAML as people write it: no anchors, and files within it line by line."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _represent_text)
