"""Machines that a scheduler makes for a job: what Kubernetes and Slurm have in common."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.spec.section import Section

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECRET_WORDS = ("SECRET", "PASSWORD", "TOKEN", "ACCESS_KEY", "CREDENTIAL", "API_KEY", "PRIVATE_KEY")


def quantity_bytes(quantity: str) -> int:
    """Bytes of a quantity such as ``64Gi``."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def check_environment(environment: dict[str, str]) -> dict[str, str]:
    """Refuse what by its name is a secret: a cluster file is read by many and copied into manifests."""
    for name in environment:
        if any(word in name.upper() for word in _SECRET_WORDS):
            raise ValueError(f"{name} looks like a secret; name where it lies under 'secrets', never its value")
    return environment


Environment = Annotated[dict[EnvName, str], AfterValidator(check_environment)]


class NodesSpec(Section):
    """Machines that are alike."""

    nodes: int = Field(ge=1)
    """How many there can be at most; a job takes those that it needs."""
    workers: int = Field(ge=0)
    """Training workers on each, one per device; 0: it only reads and decodes."""
    cpus: int = Field(ge=1)
    """Logical CPUs (hyperthreads) of each; what its workers leave free reads and decodes."""
    memory: Quantity
    """Memory of each, shared memory for blocks included, for example ``512Gi``."""
    object_store: Quantity = "16Gi"
    """Most shared memory of each for blocks on their way to workers; ``/dev/shm`` follows from what the plan takes."""


class NetworkSpec(Section):
    """How the collectives of workers on several nodes find one another."""

    interface: str | None = None
    """Network interface of NCCL's and gloo's sockets, for example ``eth0``; none: they choose."""
    fabric: Literal["tcp", "efa", "rdma"] = "tcp"
    """What carries NCCL's traffic: sockets, AWS's Elastic Fabric Adapter, or InfiniBand and RoCE."""
    environment: Environment = Field(default_factory=dict)
    """Further variables for NCCL, such as ``NCCL_IB_HCA``; a name that looks like a secret is refused."""

    @property
    def variables(self) -> dict[str, str]:
        """What NCCL, gloo and libfabric read."""
        found: dict[str, str] = {}
        if self.interface is not None:
            found = {"NCCL_SOCKET_IFNAME": self.interface, "GLOO_SOCKET_IFNAME": self.interface}
        if self.fabric == "efa":
            found |= {"FI_PROVIDER": "efa", "NCCL_NET": "ofi"}
        if self.fabric == "rdma":
            found |= {"NCCL_NET": "IB"}
        return found | self.environment
