"""The tracker that a run uses: every call becomes a journal entry, a thread takes the entries to the server.

The caller pays for one line of JSON and one ``write``. Several processes may write to one record, each with a
journal of its own: the driver owns the run (creates it, keeps its heartbeat, says how it ended), the worker's rank 0
joins it. A joining writer waits for the owner to have created the record.
"""

import json
import logging
import time
from collections.abc import Mapping

from orchestrator.tracking.journal import (
    CHECKPOINT,
    EVALUATION,
    INPUT,
    METRICS,
    PARAMS,
    REMOVAL,
    STATUS,
    TAGS,
    TEXT,
    VERSION,
    Journal,
)
from orchestrator.tracking.prometheus import OnMetrics
from orchestrator.tracking.shipping import Destination, Shipper
from orchestrator.tracking.system import SystemSampler
from orchestrator.tracking.tracker import RunStatus, Unshipped

logger = logging.getLogger(__name__)

_SAMPLE_INTERVAL_S = 10.0
_TAG_DROPPED = "orchestrator.dropped_entries"


class JournalTracker:
    """Implements ``Tracker`` over a journal and a destination. Starts its thread at once."""

    def __init__(
        self,
        journal: Journal,
        destination: Destination,
        *,
        owns_run: bool,
        samples_system: bool,
        on_metrics: OnMetrics | None = None,
    ) -> None:
        self._journal = journal
        self._on_metrics = on_metrics
        self._step = 0
        self._sampler = SystemSampler() if samples_system else None
        self._next_sample_s = 0.0
        if owns_run:
            self._journal.append(STATUS, status=RunStatus.RUNNING, reason="")
        self._shipper = Shipper(journal, destination, heartbeat=owns_run, tick=self._sample_system)
        self._shipper.start()

    def run_id(self, timeout_s: float = 0.0) -> str | None:
        return self._shipper.run_id(timeout_s)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = step
        self._append_metrics(_floats(metrics))

    def log_params(self, params: Mapping[str, object]) -> None:
        self._journal.append(PARAMS, values={name: _text(value) for name, value in params.items()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._journal.append(TAGS, values=dict(tags))

    def log_text(self, name: str, text: str) -> None:
        self._journal.append(TEXT, name=name, text=text)

    def log_input(self, name: str, uri: str, digest: str) -> None:
        self._journal.append(INPUT, name=name, uri=uri, digest=digest)

    def log_checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        self._journal.append(CHECKPOINT, uri=uri, step=step, values=_floats(metrics))

    def log_removal(self, checkpoint_uri: str) -> None:
        self._journal.append(REMOVAL, uri=checkpoint_uri)

    def log_evaluation(
        self, checkpoint_uri: str, step: int, metrics: Mapping[str, float], dataset: str, digest: str
    ) -> None:
        self._journal.append(
            EVALUATION, uri=checkpoint_uri, step=step, values=_floats(metrics), dataset=dataset, digest=digest
        )

    def log_version(self, checkpoint_uri: str, step: int, model: str, alias: str, run_uri: str) -> None:
        self._journal.append(VERSION, uri=checkpoint_uri, step=step, model=model, alias=alias, run_uri=run_uri)

    def finish(self, status: RunStatus, reason: str = "") -> None:
        self._shipper.stop_heartbeat()
        self._journal.append(STATUS, status=status, reason=reason)

    def close(self, timeout_s: float = 30.0) -> Unshipped:
        if self._journal.dropped:
            self.set_tags({_TAG_DROPPED: str(self._journal.dropped)})
        self._shipper.finish(timeout_s)
        size_bytes = self._journal.unshipped_bytes
        left = Unshipped(
            entries=self._journal.close(),
            size_bytes=size_bytes,
            refused=self._journal.refused,
            dropped=self._journal.dropped,
            journal=str(self._journal.path),
        )
        if left.entries or left.refused or left.dropped:
            logger.warning("tracking: %s", left)
        return left

    def _sample_system(self) -> None:
        if self._sampler is not None and time.monotonic() >= self._next_sample_s:
            self._next_sample_s = time.monotonic() + _SAMPLE_INTERVAL_S
            if sample := self._sampler():
                self._append_metrics(sample)

    def _append_metrics(self, values: dict[str, float]) -> None:
        self._journal.append(METRICS, step=self._step, values=values)
        if self._on_metrics is not None:
            self._on_metrics(values)


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    """Plain floats: a NumPy scalar would not go into JSON."""
    return {name: float(value) for name, value in metrics.items()}


def _text(value: object) -> str:
    """A setting as YAML would show it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
