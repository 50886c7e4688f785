"""``orchestrator render``: what would be handed to a cluster's scheduler, as text. Starts nothing."""

from pathlib import Path

import yaml

from orchestrator.errors import PlanError
from orchestrator.launch.kuberay import build_manifests
from orchestrator.launch.nodes import plan_launch
from orchestrator.launch.quota import check_quota
from orchestrator.launch.slurm import build_script
from orchestrator.redaction import redact
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import KubeRaySpec
from orchestrator.spec.cluster_slurm import SlurmSpec
from orchestrator.spec.kinds import Job
from orchestrator.spec.launch_plan import LaunchPlan


def render_job(job: Job, cluster: ClusterSpec, queue: Path | None = None) -> str:
    """Kubernetes manifests as YAML, or a Slurm batch script.

    Args:
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
    plan = plan_launch(job, cluster)
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


def _render(plan: LaunchPlan, cluster: ClusterSpec, launch: KubeRaySpec | SlurmSpec, files: dict[str, str]) -> str:
    if isinstance(launch, SlurmSpec):
        return build_script(plan, launch, files)
    manifests = build_manifests(plan, launch, files, cluster.tracking.metrics_address)
    return yaml.dump_all(manifests, Dumper=_PlainDumper, sort_keys=False, explicit_start=True, width=120)


class _PlainDumper(yaml.SafeDumper):
    """YAML as people write it: no anchors, and files within it line by line."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _represent_text)
