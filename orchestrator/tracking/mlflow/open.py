"""Opens a run's tracker over MLflow, and delivers journals that a writer left behind.

A run's tracking folder holds per writer: ``NAME.jsonl`` (journal), ``NAME.offset``, ``NAME.target.json`` (whose
record it is) and ``NAME.refused.jsonl`` where the server refused something.
"""

import dataclasses
import json
import logging
import os
import time
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.redaction import redact
from orchestrator.tracking.journal import CAP_BYTES, Journal
from orchestrator.tracking.mlflow.client import check_tracking_uri
from orchestrator.tracking.mlflow.destination import MlflowDestination
from orchestrator.tracking.prometheus import OnMetrics
from orchestrator.tracking.shipping import Delivery
from orchestrator.tracking.tracker import RunTarget, Unshipped
from orchestrator.tracking.writer import JournalTracker

logger = logging.getLogger(__name__)

_TARGET_SUFFIX = ".target.json"
_LOCK_PATIENCE_S = 60.0  # an evaluation that ends, or ``runs --sync``, holds a journal while it delivers


def open_tracker(
    target: RunTarget,
    folder: Path,
    writer: str,
    *,
    owns_run: bool,
    samples_system: bool = False,
    cap_bytes: int = CAP_BYTES,
    on_metrics: OnMetrics | None = None,
) -> JournalTracker:
    """Start to record ``target`` with a journal in the local ``folder``; goes on where that journal ends.

    The driver opens with ``owns_run=True``: it creates the run or sets it RUNNING again, keeps its heartbeat, and
    finishes it. Rank 0 and later evaluations join with ``owns_run=False``. Needs no server: what is recorded waits
    in the journal; ``on_metrics`` is handed every metric as it comes. Raises JobFileError for credentials in the
    tracking URI, TrackingError when another process holds this writer's journal for longer than a minute.
    """
    check_tracking_uri(target.tracking_uri)
    journal = Journal(folder / f"{writer}.jsonl", cap_bytes, _LOCK_PATIENCE_S)
    record = {**dataclasses.asdict(target), "owns_run": owns_run}
    pending = folder / f"{writer}{_TARGET_SUFFIX}.new"
    pending.write_text(redact(json.dumps(record, indent=1)))
    os.replace(pending, folder / f"{writer}{_TARGET_SUFFIX}")
    destination = MlflowDestination(target, owns_run=owns_run)
    tracker = JournalTracker(
        journal, destination, owns_run=owns_run, samples_system=samples_system, on_metrics=on_metrics
    )
    if owns_run:
        tracker.set_tags(target.tags)
    return tracker


def sync_journals(folder: Path, timeout_s: float = 600.0) -> list[Unshipped]:
    """Deliver what the writers of a run's tracking folder left behind, the run's owner first.

    Raises TrackingError when the server does not answer or a writer is still alive; the rest stays in the journals.
    """
    deadline_s = time.monotonic() + timeout_s
    records = {path: json.loads(path.read_text()) for path in sorted(folder.glob(f"*{_TARGET_SUFFIX}"))}
    owners_first = sorted(records, key=lambda path: not records[path]["owns_run"])
    return [_sync(path, records[path], deadline_s) for path in owners_first]


def _sync(target_path: Path, record: dict[str, object], deadline_s: float) -> Unshipped:
    owns_run = bool(record.pop("owns_run"))
    target = RunTarget(**record)  # type: ignore[arg-type]
    journal = Journal(target_path.with_name(target_path.name.removesuffix(_TARGET_SUFFIX) + ".jsonl"))
    try:
        if journal.unshipped_bytes:
            destination = MlflowDestination(target, owns_run=owns_run)
            destination.open()
            Delivery(journal, destination).drain(lambda: time.monotonic() >= deadline_s)
    except Exception as error:
        raise TrackingError(
            f"{journal.unshipped_bytes} bytes of journal {journal.path} not delivered to {target.tracking_uri}: "
            f"{redact(str(error))}; check that the server answers, then run 'orchestrator runs --sync' again"
        ) from error
    finally:
        size_bytes = journal.unshipped_bytes
        left = journal.close()
    return Unshipped(left, size_bytes, journal.refused, journal.dropped, str(journal.path))
