"""A Ray cluster over the nodes of a Slurm allocation: the section ``launch`` with ``kind: slurm``."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.nodes import Environment, NetworkSpec, NodesSpec
from orchestrator.spec.section import Section

OneLine = Annotated[str, Field(pattern=r"^[^\n\r]+$")]
Word = Annotated[str, Field(pattern=r"^[^\s'\"`$;&|<>\\]+$")]


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
    work_folder: Word
    """Absolute folder that all nodes share: logs, the token of the Ray cluster, job and cluster file."""
    scratch: Word = "/tmp"
    """Folder on a local disk of every node: objects that Ray spills, checkpoints on their way."""
    setup: tuple[OneLine, ...] = ()
    """Shell lines before anything starts, such as ``module load cuda`` or ``source /path/.venv/bin/activate``."""
    stop_before_s: int = Field(default=300, ge=60)
    """Seconds before the end of the wall time at which the run is asked to checkpoint and end."""
    requeue: bool = True
    """Put the job back into the queue when it was stopped for its wall time or its nodes were taken, not by a user."""
    start_deadline_s: int = Field(default=600, ge=60)
    """Seconds that Ray may take to start on all nodes."""
    network: NetworkSpec = NetworkSpec()
    environment: Environment = Field(default_factory=dict)
    """Plain variables of all processes; a name that looks like a secret is refused."""
    secrets_file: Word | None = None
    """Shell file with ``export NAME=VALUE`` lines on the shared disk, mode 0600; only its path is ever written, and
    these values are masked in what the run writes."""
