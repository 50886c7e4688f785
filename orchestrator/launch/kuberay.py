"""A RayJob for KubeRay, with the files that its driver reads and the policy of who may speak to its pods. Pure.

The head does no work (``num-cpus: "0"``): a task on it could take the driver and Ray's control plane along. Each retry
is a new cluster, in which the run goes on from its last checkpoint.
"""

import hashlib
import json
import re
from importlib.metadata import version

from orchestrator.errors import PlanError
from orchestrator.launch.pods import (
    APP_LABEL,
    DASHBOARD_PORT,
    FILES_FOLDER,
    HEAD_PORTS,
    RAY_METRICS_PORT,
    Manifest,
    as_head,
    build_pod,
    group_shape,
    on_demand_shape,
    scratch_mount,
    security_context,
)
from orchestrator.spec.cluster_kuberay import DRIVER_RESOURCE, SCRATCH_FOLDER, GroupSpec, KubeRaySpec
from orchestrator.spec.launch_plan import LaunchPlan
from orchestrator.spec.nodes import NodesSpec

MOST_NAME_CHARACTERS = 40  # KubeRay takes 47 of a RayJob, and appends to it
RUN_KEY = "orchestrator.run"
"""Metadata of a submission: its run."""

_ENTRYPOINT = (  # one plain command: KubeRay puts it into a line of the submitter's shell
    f"python -m orchestrator.launch.entrypoint run {FILES_FOLDER}/job.yaml --cluster {FILES_FOLDER}/cluster.yaml"
)
_SUBMITTER_MEMORY = "2Gi"
_SUBMITTER_RETRIES = 2
_SMALL_STORE_BYTES = 2**30  # of nodes that hold no blocks


def build_manifests(
    plan: LaunchPlan, launch: KubeRaySpec, files: dict[str, str], metrics_address: str | None
) -> list[Manifest]:
    """What is applied, in this order: files, network policy, job.

    Raises:
        PlanError: the run's metrics would have a port that Ray listens on.
    """
    name = kubernetes_name(plan.name)
    labels = APP_LABEL | {"app.kubernetes.io/instance": name}
    metadata = {"name": name, "namespace": launch.namespace, "labels": labels}
    metrics_port = _read_port(metrics_address)
    queue = {"kueue.x-k8s.io/queue-name": launch.queue} if launch.queue else {}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": _build_network_policy(launch, labels, metrics_port),
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {**metadata, "labels": labels | queue},
            "spec": {
                "entrypoint": _ENTRYPOINT,
                "metadata": {RUN_KEY: plan.name},  # by which `jobs` and `stop` know the submission
                "submissionMode": "K8sJobMode",
                "backoffLimit": launch.retry.backoff_limit,
                "activeDeadlineSeconds": launch.retry.deadline_s,
                "preRunningDeadlineSeconds": launch.retry.start_deadline_s,
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": launch.retry.keep_s,
                "submitterConfig": {"backoffLimit": _SUBMITTER_RETRIES},
                "submitterPodTemplate": _build_submitter(launch, labels),
                "rayClusterSpec": _build_cluster(plan, launch, name, labels, metrics_port),
            },
        },
    ]


def _read_port(metrics_address: str | None) -> int | None:
    if metrics_address is None:
        return None
    port = int(metrics_address.rpartition(":")[2])
    for owner, taken in {"metrics": RAY_METRICS_PORT, **HEAD_PORTS}.items():
        if port == taken:
            raise PlanError(
                f"tracking.metrics_address: port {port} of the head is that of Ray's {owner}; take another, such as "
                f"9464"
            )
    return port


def kubernetes_name(run: str) -> str:
    """A run's name as Kubernetes takes it; another spelling carries a digest, so that no two runs share it."""
    plain = re.sub(r"[^a-z0-9-]", "-", run).strip("-")
    if plain == run and len(run) <= MOST_NAME_CHARACTERS and run[0].isalpha():
        return run
    digest = hashlib.sha256(run.encode()).hexdigest()[:6]
    return f"run-{plain[: MOST_NAME_CHARACTERS - 11].strip('-')}-{digest}"


def _build_cluster(
    plan: LaunchPlan, launch: KubeRaySpec, name: str, labels: dict[str, str], metrics_port: int | None
) -> Manifest:
    shape = on_demand_shape(launch, launch.head.cpus, launch.head.memory, launch.head.scratch, 2 * _SMALL_STORE_BYTES)
    head = build_pod(launch, "ray-head", labels, shape)
    start = {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"} | _start_params(_SMALL_STORE_BYTES)
    groups = [_build_group(plan, launch, spec, number, labels) for spec, number in plan.placement.nodes]
    if launch.drivers is not None and plan.has_trials:
        groups.append(_build_drivers(launch, labels))
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},  # the operator makes the token and hands it to every pod
        **_build_autoscaler(launch),
        "headGroupSpec": {
            "rayStartParams": start,
            "template": as_head(head, name, metrics_port, needs_api=launch.autoscaler is not None),
        },
        "workerGroupSpecs": groups,
    }


def _build_autoscaler(launch: KubeRaySpec) -> Manifest:
    if launch.autoscaler is None:
        return {"enableInTreeAutoscaling": False}
    resources = {"cpu": "500m", "memory": "1Gi"}
    return {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": launch.autoscaler.idle_timeout_s,
            "resources": {"requests": resources, "limits": resources},
            "securityContext": security_context(),
            # It logs below the head's temporary folder; KubeRay shares /tmp/ray alone, which is not where TMPDIR leads.
            "volumeMounts": [scratch_mount()],
        },
    }


def _build_group(
    plan: LaunchPlan, launch: KubeRaySpec, group: NodesSpec, number: int, labels: dict[str, str]
) -> Manifest:
    assert isinstance(group, GroupSpec), "KubeRay places workers in its groups"
    shape = group_shape(launch, group, plan.uses_cuda, plan.placement.shared_memory_bytes(plan.stream_bytes))
    start = {
        "num-cpus": str(group.cpus),
        "num-gpus": str(group.workers if plan.uses_cuda else 0),
        **_start_params(plan.placement.store_bytes(plan.stream_bytes)),
    }
    least = min(group.min_nodes, number) if launch.autoscaler is not None else number
    return {
        "groupName": group.name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": number,
        "rayStartParams": start,
        **({"labels": group.labels} if group.labels else {}),
        "template": build_pod(launch, "ray-worker", labels, shape),
    }


def _build_drivers(launch: KubeRaySpec, labels: dict[str, str]) -> Manifest:
    drivers = launch.drivers
    assert drivers is not None
    shape = on_demand_shape(launch, drivers.cpus, drivers.memory, drivers.scratch, 2 * _SMALL_STORE_BYTES)
    resources = json.dumps(json.dumps({DRIVER_RESOURCE: drivers.slots}))  # twice: a shell takes one pair of quotes off
    return {
        "groupName": "drivers",
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "rayStartParams": {
            "num-cpus": str(drivers.cpus),
            "num-gpus": "0",
            "resources": resources,
            **_start_params(_SMALL_STORE_BYTES),
        },
        "template": build_pod(launch, "ray-worker", labels, shape),
    }


def _build_submitter(launch: KubeRaySpec, labels: dict[str, str]) -> Manifest:
    shape = on_demand_shape(launch, cpus=1, memory=_SUBMITTER_MEMORY)
    pod = build_pod(launch, "ray-job-submitter", labels, shape)
    container = pod["spec"]["containers"][0]
    for unneeded in ("env", "ports", "volumeMounts"):  # it only asks the head to run the entry point
        del container[unneeded]
    return pod


def _start_params(store_bytes: int) -> dict[str, str]:
    return {
        "object-store-memory": str(store_bytes),
        "object-spilling-directory": f"{SCRATCH_FOLDER}/spill",
        "metrics-export-port": str(RAY_METRICS_PORT),
    }


def _build_network_policy(launch: KubeRaySpec, labels: dict[str, str], metrics_port: int | None) -> Manifest:
    policy = launch.network_policy
    metrics_ports = [RAY_METRICS_PORT, *([metrics_port] if metrics_port else [])]
    return {
        "podSelector": {"matchLabels": labels},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": labels}}]},
            {"from": [_in_namespace(policy.operator_namespace)], "ports": _policy_ports([DASHBOARD_PORT])},
            {"from": [_in_namespace(policy.monitoring_namespace)], "ports": _policy_ports(metrics_ports)},
        ],
    }


def _in_namespace(namespace: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def _policy_ports(ports: list[int]) -> list[Manifest]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
