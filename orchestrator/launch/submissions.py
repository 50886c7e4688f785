"""What runs on a cluster, and how far: Ray's list of submissions beside what drivers write in their runs' folders.

Storage alone tells of runs that somebody started without a submission, and of those whose Ray is gone.
"""

import getpass
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from orchestrator.errors import (
    ClusterAccessError,
    Interrupted,
    RunNotFoundError,
    ShardReadError,
    StorageAccessError,
)
from orchestrator.launch.ray_jobs import RayJobs
from orchestrator.launch.submission import Submission
from orchestrator.runs.live import LiveRecord, read_live_record, request_stop
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.load import join_uri
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.tracker import RunStatus

_POLL_S = 1.0
_READS_AT_ONCE = 16
_STATES = {"SUCCEEDED": "FINISHED", "STOPPED": "KILLED"}


@dataclass(frozen=True)
class JobRow:
    """One submission, or a run that has none."""

    id: str
    run: str
    state: str
    """PENDING, RUNNING, FINISHED, KILLED, FAILED, SILENT where a driver has stopped writing, or UNREADABLE."""
    reason: str
    step: int | None
    steps: int | None
    unit: str
    """What is counted: steps, or a comparison's trials."""
    samples_per_s: float | None
    seconds_left: float | None
    link: str | None
    """The run in MLflow."""


def list_jobs(cluster: ClusterSpec, jobs: RayJobs | None) -> list[JobRow]:
    """Every submission, newest first, then other runs, a comparison's among them, then those that do not read.

    Args:
        jobs: None where no Ray is asked: submissions are then known by their runs alone.
    """
    submissions = jobs.list() if jobs is not None else []
    found, unreadable = _read_runs(cluster)
    records = {(record.submission, record.run): record for record in found}
    rows = [_row(submission, records.pop((submission.id, submission.run), None)) for submission in submissions]
    left = sorted(records.values(), key=lambda record: record.written_at, reverse=True)
    return rows + [_row_of_record(record) for record in left] + unreadable


def run_store(cluster: ClusterSpec, run: str) -> Store:
    """The folder of a run."""
    return open_store(join_uri(cluster.storage.runs, run), cluster.storage.s3)


def stop_submission(jobs: RayJobs, cluster: ClusterSpec, submission: Submission, deadline_s: float) -> bool:
    """Have it write a checkpoint and end; past the deadline Ray ends it. Whether it ended by itself.

    Raises:
        ClusterAccessError: Ray can be asked no more; the run stops all the same.
    """
    if submission.has_ended:
        return True
    request_stop(run_store(cluster, submission.run), submission.id, _asker())
    try:
        if jobs.wait(submission.id, deadline_s, _POLL_S):
            return True
        jobs.stop(submission.id)
        jobs.wait(submission.id, 60.0, _POLL_S)
    except ClusterAccessError as error:
        raise ClusterAccessError(
            f"{submission.id} is asked to stop, and nobody sees whether it does: {error}"
        ) from error
    return False


def stop_run(cluster: ClusterSpec, name: str, deadline_s: float) -> bool:
    """The same through storage alone, where no Ray is asked; nothing ends the run by force.

    Args:
        name: the run's, or its submission's.

    Raises:
        RunNotFoundError: no such run is live.
    """
    live = _find_live(cluster, name)
    store = run_store(cluster, live.run)
    request_stop(store, live.submission, _asker())
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        record = read_live_record(store)
        if record is None or record.status != RunStatus.RUNNING:
            return True
        time.sleep(_POLL_S)
    return False


def _find_live(cluster: ClusterSpec, name: str) -> LiveRecord:
    of_run = read_live_record(run_store(cluster, name))
    if of_run is not None and _is_live(of_run):
        return of_run
    of_submission = [record for record in _read_runs(cluster)[0] if record.submission == name and _is_live(record)]
    if not of_submission:
        raise RunNotFoundError(
            f"no live run '{name}' in {cluster.storage.runs}; 'orchestrator jobs' lists what there is"
        )
    return min(of_submission, key=lambda record: len(record.run))  # trials are named after their comparison


def _is_live(record: LiveRecord) -> bool:
    return record.status == RunStatus.RUNNING and not record.is_silent


def describe_end(cluster: ClusterSpec) -> str:
    """What becomes of a stopped run's job where a scheduler made its cluster; empty where none did."""
    if cluster.launch is None:
        return ""
    if cluster.launch.kind == "kuberay":
        return "; its RayJob ends as STOPPED, is not tried again, and its pods go after retry.keep_s"
    return "; its Slurm job ends with code 130 and is not put back into the queue"


def _read_runs(cluster: ClusterSpec) -> tuple[list[LiveRecord], list[JobRow]]:
    """Records of all runs, and a row for each that does not read. One request a run: checkpoints are not listed."""

    def read(run: str) -> LiveRecord | JobRow | None:
        try:
            return read_live_record(run_store(cluster, run))
        except (StorageAccessError, ShardReadError) as error:
            return JobRow(run, run, "UNREADABLE", str(error), None, None, "steps", None, None, None)

    runs = open_store(cluster.storage.runs, cluster.storage.s3).folders()
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        found = list(pool.map(read, runs))
    records = [one for one in found if isinstance(one, LiveRecord)]
    return records, [one for one in found if isinstance(one, JobRow)]


def _row(submission: Submission, record: LiveRecord | None) -> JobRow:
    if record is None:
        return _row_of_submission(submission)
    row = replace(_row_of_record(record), id=submission.id)  # KubeRay makes ids of its own
    if not submission.has_ended or record.status != RunStatus.RUNNING:
        return row
    # Ray saw the end that the driver could not write down any more.
    state = _STATES.get(submission.status, submission.status)
    return JobRow(row.id, row.run, state, submission.message, *_progress(record))


def _row_of_submission(submission: Submission) -> JobRow:
    """Of a driver that writes nothing: not there yet, or followed by a later one."""
    state = _STATES.get(submission.status, submission.status)
    if state == "FAILED" and submission.exit_code == Interrupted.exit_code:
        state = "KILLED"
    reason = submission.message if state == "FAILED" else ""
    return JobRow(submission.id, submission.run, state, reason, None, None, "steps", None, None, None)


def _row_of_record(record: LiveRecord) -> JobRow:
    state = "SILENT" if record.is_silent else record.status.value
    submission = record.submission or ""
    is_own = submission.startswith(f"{record.run}-")  # else it is a trial, and the submission its comparison's
    return JobRow(submission if is_own else record.run, record.run, state, record.reason, *_progress(record))


def _progress(record: LiveRecord) -> tuple[int, int, str, float | None, float | None, str | None]:
    link = None
    if record.mlflow_run_id is not None and record.tracking_uri.startswith("http"):
        link = f"{record.tracking_uri.rstrip('/')}/#/runs/{record.mlflow_run_id}"
    return record.step, record.steps, record.unit, record.samples_per_s, record.seconds_left, link


def _asker() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a pod's user has a number and no name
        user = f"user {os.getuid()}"
    return f"stop asked for by {user} on {socket.gethostname()}"
