"""A job that makes what is missing (indexes, vocabularies, labels), seen and stopped from elsewhere as a run is.

What a run writes of itself begins with its lease and plan, which need the data prepared; until then its folder says
this. Once a folder holds a plan its data were prepared, and what lies there is left to the run that holds it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from orchestrator.env import submission_id
from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.live import LivePost, LiveRecord
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import PLAN_FILE
from orchestrator.spec.resolve import resolve_tracking_uri
from orchestrator.storage.store import check_store, open_store
from orchestrator.tracking.tracker import RunStatus


@contextmanager
def live_preparation(
    name: str, cluster: ClusterSpec, on_progress: OnProgress | None, *, is_all: bool = False
) -> Iterator[OnProgress]:
    """Within, what is passed to the yielded function is written down, and raises once somebody asks to stop.

    Args:
        is_all: nothing follows, so that its end is the job's.

    Raises:
        Interrupted: somebody asked; a second start goes on with what was kept.
    """
    now = _Now(name, resolve_tracking_uri(cluster), on_progress, StopRequest())
    store = open_store(join_uri(cluster.storage.runs, name), cluster.storage.s3)
    check_store(store, write=True)
    if store.stat(PLAN_FILE) is not None:
        yield now.show
        return
    with LivePost(store, now.stop, now.record, places={}, num_ranks=0, is_last=is_all):
        try:
            yield now.show
            if not is_all:
                now.heed()
        except (Interrupted, KeyboardInterrupt) as error:
            now.status, now.reason = RunStatus.KILLED, str(error) or "interrupted"
            raise
        except OrchestratorError as error:
            now.status, now.reason = RunStatus.FAILED, str(error)
            raise
        if is_all:
            now.status = RunStatus.FINISHED


@dataclass
class _Now:
    name: str
    tracking_uri: str
    on_progress: OnProgress | None
    stop: StopRequest
    progress: Progress = field(default_factory=lambda: Progress("prepare", 0, 0, "parts"))
    status: RunStatus = RunStatus.RUNNING
    reason: str = ""

    def show(self, progress: Progress) -> None:
        self.progress = progress
        if self.on_progress is not None:
            self.on_progress(progress)
        self.heed()

    def heed(self) -> None:
        if self.stop.requested:
            raise Interrupted(f"{self.stop.reason}, during: {self.progress.activity}")

    def record(self) -> LiveRecord:
        """Counts the activity of the moment; samples a second and a link in MLflow are the run's."""
        return LiveRecord(
            run=self.name,
            submission=submission_id(),
            status=self.status,
            step=self.progress.done,
            steps=self.progress.total or 0,
            global_size=0,
            samples_per_s=None,
            checkpoint_uri="",
            tracking_uri=self.tracking_uri,
            mlflow_run_id=None,
            written_at=time.time(),
            reason=self.reason,
            unit=self.progress.unit,
        )
