"""Pods of a RayJob: what head, workers and submitter have in common, and what each of them adds. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.redaction import SECRETS_ENV
from orchestrator.spec.cluster_kuberay import SCRATCH_FOLDER, GroupSpec, KubeRaySpec, TolerationSpec

Manifest = dict[str, Any]

FILES_FOLDER = "/etc/orchestrator"
DASHBOARD_PORT = 8265
RAY_METRICS_PORT = 8080
APP_LABEL = {"app.kubernetes.io/name": "vl-orchestrator"}

HEAD_PORTS = {"gcs": 6379, "dashboard": DASHBOARD_PORT, "client": 10001}
_ANY_GPU = TolerationSpec(key="nvidia.com/gpu")


@dataclass(frozen=True)
class PodShape:
    """How large a pod is and where it goes."""

    cpus: int
    memory: str
    scratch: str | None = None
    """Local disk; none: it needs none."""
    shared_memory_bytes: int = 0
    """Of ``/dev/shm``; 0: the container runtime's own."""
    devices: dict[str, str] | None = None
    """GPUs and fabric adapters, as Kubernetes resources."""
    selector: dict[str, str] | None = None
    """Labels of its nodes."""
    tolerations: Sequence[TolerationSpec] = ()


def group_shape(launch: KubeRaySpec, group: GroupSpec, uses_cuda: bool, shared_memory_bytes: int) -> PodShape:
    """The pod of a worker group, on its market's nodes with its accelerator."""
    market = launch.markets.get(group.market)
    selector = {**(market.node_selector if market else {}), **group.node_selector}
    if group.accelerator is not None:
        selector["nvidia.com/gpu.product"] = group.accelerator
    tolerations = (*(market.tolerations if market else ()), *group.tolerations)
    devices: dict[str, str] = {}
    if group.workers:
        gpus = {"nvidia.com/gpu": str(group.workers)} if uses_cuda else {}
        devices = gpus | launch.network.resources
        tolerations += (_ANY_GPU,) * uses_cuda
    return PodShape(group.cpus, group.memory, launch.scratch, shared_memory_bytes, devices, selector, tolerations)


def on_demand_shape(
    launch: KubeRaySpec, cpus: int, memory: str, scratch: str | None = None, shared_memory_bytes: int = 0
) -> PodShape:
    """A pod that no spot node may take along: head, drivers, submitter."""
    market = launch.markets.get("on_demand")
    selector, tolerations = (market.node_selector, market.tolerations) if market else ({}, ())
    return PodShape(cpus, memory, scratch, shared_memory_bytes, selector=selector, tolerations=tolerations)


def build_pod(launch: KubeRaySpec, name: str, labels: dict[str, str], shape: PodShape) -> Manifest:
    """A pod template with one container of the image, as nobody's root."""
    spec: Manifest = {
        "serviceAccountName": launch.service_account,
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": launch.user_id,
            "runAsGroup": launch.user_id,
            "fsGroup": launch.user_id,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_build_container(launch, name, shape)],
    }
    if volumes := _build_volumes(shape):
        spec["volumes"] = volumes
    if launch.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in launch.image_pull_secrets]
    if shape.selector:
        spec["nodeSelector"] = shape.selector
    if shape.tolerations:
        spec["tolerations"] = [_build_toleration(toleration) for toleration in dict.fromkeys(shape.tolerations)]
    return {"metadata": {"labels": labels}, "spec": spec}


def as_head(pod: Manifest, config_map: str, run_metrics_port: int | None, needs_api: bool) -> Manifest:
    """The head's pod: Ray's ports, job and cluster file, and the API where an autoscaler asks for nodes."""
    spec = pod["spec"]
    container = spec["containers"][0]
    ports = HEAD_PORTS | ({"run-metrics": run_metrics_port} if run_metrics_port else {})
    container["ports"] = [*container["ports"], *_build_ports(ports)]
    spec["automountServiceAccountToken"] = needs_api
    container["volumeMounts"].append({"name": "files", "mountPath": FILES_FOLDER, "readOnly": True})
    spec["volumes"].append({"name": "files", "configMap": {"name": config_map}})
    return pod


def security_context(locks_memory: bool = False) -> Manifest:
    """No privilege at all; pinning memory for a fabric's adapters is the one exception."""
    capabilities: Manifest = {"drop": ["ALL"]}
    if locks_memory:
        capabilities["add"] = ["IPC_LOCK"]
    return {"allowPrivilegeEscalation": False, "capabilities": capabilities}


def scratch_mount() -> Manifest:
    """Where a container sees the local disk of its pod."""
    return {"name": "scratch", "mountPath": SCRATCH_FOLDER}


def _build_volumes(shape: PodShape) -> list[Manifest]:
    volumes: list[Manifest] = []
    if shape.scratch is not None:
        volumes.append({"name": "scratch", "emptyDir": {"sizeLimit": shape.scratch}})
    if shape.shared_memory_bytes:
        size = f"{shape.shared_memory_bytes // 2**20}Mi"
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    return volumes


def _build_mounts(shape: PodShape) -> list[Manifest]:
    mounts = [scratch_mount()] if shape.scratch is not None else []
    if shape.shared_memory_bytes:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return mounts


def _build_container(launch: KubeRaySpec, name: str, shape: PodShape) -> Manifest:
    devices = shape.devices or {}
    disk = {"ephemeral-storage": shape.scratch} if shape.scratch is not None else {}
    pins_memory = bool(devices) and launch.network.fabric != "tcp"
    return {
        "name": name,
        "image": launch.image,
        "env": _build_env(launch),
        "ports": _build_ports({"metrics": RAY_METRICS_PORT}),
        "resources": {
            "requests": {"cpu": str(shape.cpus), "memory": shape.memory, **disk, **devices},
            "limits": {"memory": shape.memory, **devices},
        },
        "securityContext": security_context(pins_memory),
        "volumeMounts": _build_mounts(shape),
    }


def _build_env(launch: KubeRaySpec) -> list[Manifest]:
    masked = {SECRETS_ENV: ",".join(launch.secrets)} if launch.secrets else {}
    plain = {"TMPDIR": SCRATCH_FOLDER} | masked | launch.network.variables | launch.environment
    env: list[Manifest] = [
        {"name": name, "value": value} for name, value in plain.items() if name not in launch.secrets
    ]
    for name, reference in launch.secrets.items():
        secret, key = reference.split("/")
        env.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return env


def _build_ports(ports: dict[str, int]) -> list[Manifest]:
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _build_toleration(toleration: TolerationSpec) -> Manifest:
    operator = {"operator": "Exists"} if toleration.value is None else {"operator": "Equal", "value": toleration.value}
    effect = {"effect": toleration.effect} if toleration.effect else {}
    return {"key": toleration.key, **operator, **effect}
