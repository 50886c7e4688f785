"""What the rest of the system sees of tracking: the ``Tracker`` interface and the records that cross it.

Owns no storage and no client. ``writer.py`` implements the interface over a journal, ``null.py`` over nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class RunStatus(StrEnum):
    """States of a run; the values are MLflow's."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


# Tags that we set on a run and read back.
TAG_RUN_KEY = "orchestrator.run_key"
TAG_HEARTBEAT = "orchestrator.heartbeat"
TAG_REASON = "orchestrator.reason"
TAG_OBJECTIVE = "orchestrator.objective"
TAG_CHECKPOINT = "orchestrator.checkpoint"

# Tags of a model version, with that of its checkpoint.
TAG_RUN_URI = "orchestrator.run_uri"


@dataclass(frozen=True, slots=True)
class RunTarget:
    """Which record a writer writes to.

    ``run_key`` is the caller's own unique name of the run, made once and kept in the run's folder. It is a tag of
    the record, so every later writer finds the same record again, whether or not the server was there before.
    """

    tracking_uri: str
    experiment: str
    run_name: str
    run_key: str
    tags: Mapping[str, str] = field(default_factory=dict)
    parent_key: str | None = None
    """``run_key`` of the run below which this one is shown; that one's record is made first."""


@dataclass(frozen=True, slots=True)
class Unshipped:
    """What a closed writer could not deliver."""

    entries: int
    size_bytes: int
    refused: int
    """Entries that the server refused, or a part of them; they are kept in ``*.refused.jsonl`` beside the journal."""
    dropped: int
    """Metric entries that the full journal did not take (see ``journal.py``)."""
    journal: str

    def __str__(self) -> str:
        parts = []
        if self.entries:
            size = f"{self.entries} entries ({self.size_bytes} bytes)"
            parts.append(f"{size} not delivered, which 'orchestrator runs --sync' does; journal {self.journal}")
        if self.refused:
            kept = Path(self.journal).with_suffix(".refused.jsonl")
            parts.append(f"{self.refused} refused by the server, which no later delivery changes; kept in {kept}")
        if self.dropped:
            parts.append(f"{self.dropped} dropped by the full journal {self.journal}, which are lost")
        return "; ".join(parts) or "all delivered"


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as ``orchestrator runs`` lists it. None where the run has not recorded it."""

    name: str
    run_id: str
    status: str
    reason: str | None
    objective: str | None
    steps: int | None
    samples_per_s: float | None
    evaluation: dict[str, float]
    started: datetime
    checkpoint_uri: str | None


class Tracker(Protocol):
    """Records one run. No method raises, blocks on a server or keeps the caller longer than a line of a file."""

    def run_id(self, timeout_s: float = 0.0) -> str | None:
        """The server's id of the run, waited for at most ``timeout_s``; None while the server is away."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values of ``metrics.py`` at an optimizer step; NaN and infinities are kept."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings. A value that changed at a resume becomes the tag ``changed.<name>``."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags; the last value of a tag counts."""

    def log_text(self, name: str, text: str) -> None:
        """Keep a text as the artifact ``name`` (``plan.json``)."""

    def log_input(self, name: str, uri: str, digest: str) -> None:
        """Record the data set that the run reads."""

    def log_checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record a complete checkpoint as a model that carries its URI, with the metrics known so far."""

    def log_removal(self, checkpoint_uri: str) -> None:
        """Record that a recorded checkpoint is not there any more."""

    def log_evaluation(
        self, checkpoint_uri: str, step: int, metrics: Mapping[str, float], dataset: str, digest: str
    ) -> None:
        """Record evaluation metrics and link them to a recorded checkpoint and to the evaluation set."""

    def log_version(self, checkpoint_uri: str, step: int, model: str, alias: str, run_uri: str) -> None:
        """Make a recorded checkpoint a version of the registered ``model``, and give it the alias."""

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """Record how the run ended."""

    def close(self, timeout_s: float = 30.0) -> Unshipped:
        """Deliver what is left for at most ``timeout_s`` and say what remains."""


def flat_params(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as ``a.b.c`` to value; lists stay one value."""
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flat_params(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
