"""A Ray cluster that KubeRay makes for one job: the section ``launch`` with ``kind: kuberay``."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.nodes import Environment, EnvName, NetworkSpec, NodesSpec, Quantity, check_not_ours
from orchestrator.spec.section import Section

KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
GroupName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$")]
LabelKey = Annotated[
    str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]
Labels = dict[LabelKey, LabelValue]
_TAG, _DIGEST = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", r"@sha256:[0-9a-f]{64}"
Image = Annotated[str, Field(pattern=rf"^[a-z0-9][a-z0-9._:/-]*({_TAG}|({_TAG})?{_DIGEST})$")]
SecretKey = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+$")]

SCRATCH_FOLDER = "/scratch"
"""Where pods have their local disk."""


def _check_secrets(secrets: dict[str, str]) -> dict[str, str]:
    check_not_ours(secrets)
    return secrets


_TAKEN_NAMES = {
    "head": "the head's pod, which Kueue counts by it",
    "submitter": "the submitter's pod, which Kueue counts by it",
    "drivers": "the group that 'drivers' makes",
}


class TolerationSpec(Section):
    """A taint of nodes that pods put up with."""

    key: LabelKey
    """The taint's key."""
    value: LabelValue | None = None
    """Its value; none: any."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Its effect; none: all."""


class MarketSpec(Section):
    """Nodes of one way to pay: how the cluster marks them."""

    node_selector: Labels = Field(default_factory=dict)
    """Labels of those nodes, for example ``karpenter.sh/capacity-type: spot``."""
    tolerations: tuple[TolerationSpec, ...] = ()
    """Taints that those nodes carry."""


class HeadSpec(Section):
    """The head: Ray's control plane and the driver of the run, no task of Ray's. Always on demand."""

    cpus: int = Field(default=4, ge=1)
    """CPUs of its pod."""
    memory: Quantity = "32Gi"
    """Memory of its pod; the plan of a billion samples takes about 1 GiB."""
    scratch: Quantity = "50Gi"
    """Its local disk."""


class GroupSpec(NodesSpec):
    """Pods that are alike: one node each, with the same accelerator."""

    name: GroupName
    """Up to 20 lower-case letters, digits and dashes; unique within the cluster file."""
    min_nodes: int = Field(default=0, ge=0)
    """With an autoscaler: nodes that are kept from the start."""
    market: Literal["on_demand", "spot"] = "on_demand"
    """How its nodes are paid; spot nodes may be taken back, and the run then goes on from its last checkpoint."""
    accelerator: LabelValue | None = None
    """Its devices as NVIDIA's plug-in labels nodes (``nvidia.com/gpu.product``); none: any, or by ``node_selector``."""
    node_selector: Labels = Field(default_factory=dict)
    """Further labels of its nodes, beside those of the market."""
    tolerations: tuple[TolerationSpec, ...] = ()
    """Taints of those nodes, beside those of the market; CUDA groups put up with ``nvidia.com/gpu`` anyway."""
    labels: Labels = Field(default_factory=dict)
    """Ray labels, to which ``ray.ingest_labels`` may point."""

    @model_validator(mode="after")
    def _consistent(self) -> "GroupSpec":
        for key in self.labels:
            if key.startswith("ray.io/"):
                raise ValueError(f"label {key} is one of Ray's own, which Ray sets itself; use another prefix")
        if self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes is {self.min_nodes}, above nodes, which is {self.nodes}")
        return self


DRIVER_RESOURCE = "driver"
"""Ray's resource on the nodes of ``drivers``."""


class DriversSpec(Section):
    """Nodes on demand for what Tune runs of a comparison's trials: Ray resource ``driver``."""

    slots: int = Field(default=8, ge=1)
    """Trials at once, at most."""
    cpus: int = Field(default=8, ge=1)
    """CPUs of its pod."""
    memory: Quantity = "64Gi"
    """Memory of its pod."""
    scratch: Quantity = "50Gi"
    """Its local disk."""


class AutoscalerSpec(Section):
    """Ray's own autoscaler (version 2, in the head's pod)."""

    idle_timeout_s: int = Field(default=300, ge=1)
    """A node without work for that long is given back."""


class RetrySpec(Section):
    """How long the job may take, and what happens when it fails."""

    backoff_limit: int = Field(default=3, ge=0)
    """New clusters after a lost head; each goes on from the run's last checkpoint."""
    deadline_s: int = Field(default=14 * 86_400, ge=60)
    """Seconds after which the job is ended; KubeRay may count them anew for each new cluster."""
    start_deadline_s: int = Field(default=3_600, ge=60)
    """Seconds that pods may take to come up before the job is given up."""
    keep_s: int = Field(default=600, ge=0)
    """Seconds that the pods are kept after the end, to read their logs."""


class NetworkPolicySpec(Section):
    """Who besides the job's own pods may speak to them; all others are refused."""

    operator_namespace: KubernetesName = "kuberay-system"
    """Namespace of the KubeRay operator, which asks the head how the job is."""
    monitoring_namespace: KubernetesName = "monitoring"
    """Namespace of Prometheus, which reads the metrics ports."""


class PodNetworkSpec(NetworkSpec):
    """The same in pods, which ask for the fabric's adapters as resources."""

    device: LabelKey | None = None
    """Resource of the fabric's adapters (``rdma/hca``); none: ``vpc.amazonaws.com/efa`` for efa."""
    devices: int = Field(default=1, ge=1)
    """Adapters of each node with workers."""

    @model_validator(mode="after")
    def _device_of_fabric(self) -> "PodNetworkSpec":
        if self.fabric == "rdma" and self.device is None:
            raise ValueError("fabric rdma needs device, the resource name of its adapters, for example rdma/hca")
        if self.fabric == "tcp" and (given := self.model_fields_set & {"device", "devices"}):
            raise ValueError(f"{min(given)} is given, but fabric is tcp, which has none; say fabric: efa or rdma")
        return self

    @property
    def resources(self) -> dict[str, str]:
        """What a pod with workers asks for; sockets need nothing."""
        if self.fabric == "tcp":
            return {}
        return {self.device or "vpc.amazonaws.com/efa": str(self.devices)}


class KubeRaySpec(Section):
    """A RayJob: its own Ray cluster, gone when the job is done."""

    kind: Literal["kuberay"]
    namespace: KubernetesName
    """Kubernetes namespace of the job."""
    image: Image
    """Image of all pods, with a tag or digest (``infra/images``), for example ``registry.example.org/name:0.1.0``."""
    service_account: KubernetesName = "vl-orchestrator"
    """Service account of all pods: its role opens the buckets."""
    user_id: int = Field(default=1000, ge=1)
    """User that processes run as; the image's, never root."""
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    """Secrets that open the image's registry."""
    head: HeadSpec = HeadSpec()
    groups: tuple[GroupSpec, ...] = Field(min_length=1)
    drivers: DriversSpec | None = None
    """A node on demand beside a comparison, for Tune's actors of its trials; none: they are on any node."""
    queue: KubernetesName | None = None
    """Kueue's local queue: the job waits there until all of its nodes fit. Not together with an autoscaler, nor with
    more than six groups, that of ``drivers`` included."""
    autoscaler: AutoscalerSpec | None = None
    """Nodes come and go with the work; none: they are all there from the start."""
    markets: dict[Literal["on_demand", "spot"], MarketSpec] = Field(default_factory=dict)
    """How nodes of each market are found; none: any node will do."""
    network: PodNetworkSpec = PodNetworkSpec()
    network_policy: NetworkPolicySpec = NetworkPolicySpec()
    scratch: Quantity = "200Gi"
    """Local disk of each pod of the groups: objects that Ray spills, checkpoints on their way, cached shards."""
    environment: Environment = Field(default_factory=dict)
    """Plain variables of all pods; a name that looks like a secret is refused."""
    secrets: Annotated[dict[EnvName, SecretKey], AfterValidator(_check_secrets)] = Field(default_factory=dict)
    """Variables from Kubernetes secrets, as ``SECRET/KEY``; only that reference is ever written."""
    retry: RetrySpec = RetrySpec()

    @model_validator(mode="after")
    def _groups(self) -> "KubeRaySpec":
        names = [group.name for group in self.groups]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"groups has {twice[0]} twice; give each its own name")
        for name in names:
            if name in _TAKEN_NAMES:
                raise ValueError(f"groups has '{name}', the name of {_TAKEN_NAMES[name]}; use another")
        plain = self.environment.keys() | self.network.environment.keys()
        if both := sorted(plain & self.secrets.keys()):
            raise ValueError(f"{both[0]} is under 'environment' and under 'secrets'; leave one of them out")
        for group in self.groups:
            if group.market == "spot" and "spot" not in self.markets:
                raise ValueError(f"group {group.name} is on the spot market, but markets.spot does not say its nodes")
        return self
