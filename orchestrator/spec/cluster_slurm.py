"""A Ray cluster over the nodes of a Slurm allocation: the section ``launch`` with ``kind: slurm``."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.nodes import Environment, NetworkSpec, NodesSpec, is_secret
from orchestrator.spec.section import Section

OneLine = Annotated[str, Field(pattern=r"^[^\n\r]+$")]
Word = Annotated[str, Field(pattern=r"^[^\s'\"`$;&|<>\\]+$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\s'\"`$;&|<>\\]*$")]

_ASSIGNMENT = re.compile(r"""\b([A-Za-z_]\w*)=["']?[^\s"'$/~]""")  # of a value, not of a file or another variable
_UNIT_S = (1, 60, 3600, 86_400)


def _check_setup(lines: tuple[str, ...]) -> tuple[str, ...]:
    for name in _ASSIGNMENT.findall("\n".join(lines)):
        if is_secret(name):
            raise ValueError(f"{name} looks like a secret; put it into 'secrets_file', never into a cluster file")
    return lines


class SlurmSpec(Section):
    """One batch job: Ray starts on its nodes, the run is driven from the first, all ends with it."""

    kind: Literal["slurm"]
    group: NodesSpec
    """The nodes of the partition, as a job may take them."""
    time_limit: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")]
    """Wall time of the allocation as Slurm writes it: ``[DAYS-]HH:MM:SS``."""
    partition: Word | None = None
    """Partition; none: the default one."""
    account: Word | None = None
    """Account that is charged; none: the user's default."""
    qos: Word | None = None
    """Quality of service; none: the default."""
    constraint: Word | None = None
    """Features that nodes must have."""
    work_folder: AbsolutePath
    """Absolute path of a folder that is there and that all nodes share: logs, the token of the Ray cluster, job and
    cluster file."""
    scratch: AbsolutePath = "/tmp"
    """Absolute path of a folder on a local disk of every node: objects that Ray spills, checkpoints on their way."""
    setup: Annotated[tuple[OneLine, ...], AfterValidator(_check_setup)] = ()
    """Shell lines before anything starts, such as ``module load cuda`` or ``source /path/.venv/bin/activate``."""
    stop_before_s: int = Field(default=300, ge=60, le=65_535)
    """Seconds before the end of the wall time at which the run is asked to checkpoint and end."""
    requeue: bool = True
    """Put the job back into the queue when it was stopped for its wall time or its nodes were taken, not by a user."""
    start_deadline_s: int = Field(default=600, ge=60)
    """Seconds that Ray may take to start on all nodes."""
    network: NetworkSpec = NetworkSpec()
    environment: Environment = Field(default_factory=dict)
    """Plain variables of all processes; a name that looks like a secret is refused."""
    secrets_file: AbsolutePath | None = None
    """Absolute path of a shell file with ``export NAME=VALUE`` lines on the shared disk, mode 0600; only this path is
    ever written, and these values are masked in what the run writes."""

    @model_validator(mode="after")
    def _runs_before_it_stops(self) -> Self:
        parts = reversed(re.split("[-:]", self.time_limit))
        limit_s = sum(int(part) * unit_s for part, unit_s in zip(parts, _UNIT_S, strict=False))
        if limit_s <= self.stop_before_s:
            raise ValueError(
                f"time_limit is {self.time_limit}, and stop_before_s {self.stop_before_s}: the run would be asked to "
                f"stop as it starts; raise time_limit, or lower stop_before_s"
            )
        return self
