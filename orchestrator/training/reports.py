"""What a worker tells the driver, and what the driver may ask of it. Plain values that pickle.

Workers know nothing of MLflow: rank 0 sends these reports (each rank where it is) and goes on; the driver records them.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

Weights = Literal["raw", "ema"]


@dataclass(frozen=True)
class StepReport:
    """Metrics at a logged step, under their full names (``tracking/metrics.py``)."""

    step: int
    metrics: dict[str, float]
    num_steps: int = 0
    """Steps whose means they are; none: they are not about steps."""


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint whose complete marker is written."""

    step: int
    uri: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class RemovalReport:
    """A checkpoint that retention has removed."""

    uri: str


@dataclass(frozen=True)
class EvaluationReport:
    """What the probes found at a step; each result is ``ProbeResult.to_dict()``."""

    step: int
    weights: Weights
    results: list[dict[str, Any]]
    seconds: float
    """That judging took."""


@dataclass(frozen=True)
class NoteReport:
    """Something the user should read."""

    text: str


@dataclass(frozen=True)
class PlaceReport:
    """Where a rank runs, so that its log can be found; the one report that every rank sends."""

    rank: int
    actor: str
    node: str


Report = StepReport | CheckpointReport | RemovalReport | EvaluationReport | NoteReport | PlaceReport


class Wish(IntEnum):
    """What the driver wants of the workers; of several the greatest counts."""

    GO_ON = 0
    STOP = 1
    """Write a checkpoint and end."""
    LEAVE = 2
    """End without a trace: the run's folder is another driver's by now."""


class DriverLink(Protocol):
    """Rank 0's line to the driver, for which no step waits."""

    def send(self, report: Report) -> None:
        """Hand over a report."""
        ...

    def flush(self) -> None:
        """Return when what was handed over cannot get lost with this process."""
        ...

    def wish(self) -> Wish:
        """What the driver wants."""
        ...


@dataclass(frozen=True)
class WorkerResult:
    """What rank 0 returns when its train function ends."""

    status: Literal["finished", "stopped"]
    step: int
    checkpoint_uri: str
    samples_per_s: float
    evaluation: dict[Weights, list[dict[str, Any]]] = field(default_factory=dict)
