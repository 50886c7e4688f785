"""Machines that a scheduler makes for a job: what Kubernetes and Slurm have in common."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.spec.section import Section

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECRET = re.compile(r"(SECRET|PASSWORD|TOKEN|ACCESS_KEY|CREDENTIAL|API_KEY|PRIVATE_KEY)S?(_|$)")
_OURS = ("ORCHESTRATOR_SECRETS", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TMPDIR")


def quantity_bytes(quantity: str) -> int:
    """Bytes of a quantity such as ``64Gi``."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def is_secret(name: str) -> bool:
    """Whether a variable is a secret by its name; ``TOKENIZERS_PARALLELISM`` is none."""
    return _SECRET.search(name.upper()) is not None


def check_not_ours(names: Iterable[str]) -> None:
    """Refuse variables that whatever makes the cluster sets: another value would open its doors or lose its disk."""
    for name in names:
        if name in _OURS:
            raise ValueError(
                f"{name} is set for every process of the cluster that is made; leave it out"
                + (" (local disk is 'scratch')" if name == "TMPDIR" else "")
            )


def check_environment(environment: dict[str, str]) -> dict[str, str]:
    """Refuse what by its name is a secret: a cluster file is read by many and copied into manifests."""
    check_not_ours(environment)
    for name in environment:
        if is_secret(name):
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
