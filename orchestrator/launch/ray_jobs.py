"""Ray's Jobs API as this package uses it: one connection with token, verified TLS and errors that say what to do.

``ray_client.py`` does the talking.
"""

import logging
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import requests
from ray.job_submission import JobDetails, JobSubmissionClient

from orchestrator.errors import ClusterAccessError, RunNotFoundError
from orchestrator.launch.kuberay import RUN_KEY
from orchestrator.launch.ray_client import ClusterAwayError, RayClient, RequestRefusedError, actor_query, log_is_gone
from orchestrator.launch.submission import ENDED, Submission
from orchestrator.spec.cluster_submit import SubmitSpec

logger = logging.getLogger(__name__)

_RETRY_S, _FOLLOW_S = 3.0, 2.0


class RayJobs:
    """The jobs of one cluster."""

    def __init__(self, client: RayClient) -> None:
        self._client = client

    @property
    def ray_version(self) -> str:
        """Ray's version on the cluster."""
        return str(self._client._server_ray_version)

    @property
    def address(self) -> str:
        """Of the dashboard."""
        return str(self._client.get_address())

    def clock_skew_s(self) -> float:
        """The cluster's clock minus this one; to a second, as HTTP dates have it."""
        asked_at = time.time()
        answer = self._client._do_request("GET", "/api/version")
        return parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5 - (asked_at + time.time()) / 2

    def list(self) -> list[Submission]:
        """Submissions of ours, newest first."""
        found = [_submission(job) for job in self._client.list_jobs() if RUN_KEY in (job.metadata or {})]
        return sorted(found, key=lambda submission: submission.started_at, reverse=True)

    def find(self, name: str) -> Submission:
        """A submission by its id, or the last one of a run; where one of each has that name, the one that is live.

        Raises:
            RunNotFoundError: the cluster knows none of ours, or two that are live.
        """
        submissions = self.list()
        of_id = [found for found in submissions if found.id == name]
        of_run = [found for found in submissions if found.run == name]
        found = of_id + of_run[:1]
        if not found:
            raise RunNotFoundError(f"{self.address} knows no submission '{name}'; 'orchestrator jobs' lists them")
        live = [submission for submission in found if not submission.has_ended]
        if len(live) > 1:
            raise RunNotFoundError(
                f"'{name}' is a submission of run '{live[0].run}', and a run whose last submission is '{live[1].id}': "
                f"both are live; name '{live[0].run}' or '{live[1].id}'"
            )
        return (live or found)[0]

    def start(
        self,
        submission_id: str,
        entrypoint: str,
        folder: str,
        metadata: dict[str, str],
        environment: dict[str, str],
    ) -> None:
        """Run ``entrypoint`` on the head, in a copy of ``folder``; a used id is refused by Ray."""
        try:
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env={"working_dir": folder, "env_vars": environment},
                metadata=metadata,
            )
        except RequestRefusedError as error:  # among others, an id that somebody else has used a moment ago
            raise ClusterAccessError(f"Ray refuses submission {submission_id}: {error}") from error

    def wait(self, submission_id: str, timeout_s: float, interval_s: float = 0.5) -> bool:
        """Whether it has ended within ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        while self._client.get_job_status(submission_id) not in ENDED:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(interval_s)
        return True

    def driver_log(self, submission_id: str) -> str:
        """All that the driver has printed."""
        return str(self._client.get_job_logs(submission_id))

    def follow_driver(self, submission_id: str) -> Iterator[str]:
        """What the driver prints, until it ends; where a connection breaks off, the next one goes on from there."""
        num_shown, ended = 0, False
        while not ended:
            num_read = 0
            for part in self._client.tail(submission_id):
                num_read += len(part)
                if num_read > num_shown:
                    yield part[num_shown - num_read :]
                    num_shown = num_read
            ended = self.wait(submission_id, timeout_s=_FOLLOW_S)

    def actor_log(self, actor: str) -> bytes:
        """What an actor of Ray's has printed on stderr, where our logging goes.

        Raises:
            RunNotFoundError: Ray has it no more.
        """
        answer = self._client._do_request("GET", f"/api/v0/logs/file?{actor_query(actor)}")
        if answer.status_code != 200:
            raise log_is_gone(actor, answer.text)
        return answer.content

    def tail_actor(self, actor: str) -> Iterator[bytes]:
        """The same and what it prints, each byte once; empty parts while it prints nothing. Ends where the connection
        breaks off.

        Raises:
            RunNotFoundError: Ray has it no more.
        """
        return self._client.tail_actor(actor, _FOLLOW_S)

    def stop(self, submission_id: str) -> None:
        """Ray's own stop: a signal, and three seconds later the end."""
        self._client.stop_job(submission_id)

    def forget(self, submission_id: str) -> None:
        """Take an ended job from Ray's list."""
        self._client.delete_job(submission_id)


def connect(submit: SubmitSpec, patience_s: float | None = None) -> RayJobs:
    """Reach the cluster; one that does not answer is tried again for a while.

    Raises:
        ClusterAccessError: it is away, its certificate is not trusted, or the token is missing or wrong.
    """
    patience_s = submit.patience_s if patience_s is None else patience_s
    deadline_s = time.monotonic() + patience_s
    told = False
    while True:
        try:
            return RayJobs(RayClient(submit))
        except ClusterAwayError as error:
            if time.monotonic() + _RETRY_S > deadline_s:
                raise
            if not told:
                logger.info("%s; trying for %.0f s", error, patience_s)
            told = True
            time.sleep(_RETRY_S)


def stop_here(submission_id: str) -> None:
    """Ray's own stop, asked by the driver of its own submission; where Ray cannot be asked, nothing happens."""
    try:
        JobSubmissionClient().stop_job(submission_id)  # RAY_ADDRESS is set for a driver, and leads to the dashboard
    except (RuntimeError, ConnectionError, requests.exceptions.RequestException) as error:
        logger.warning("Ray did not take the end of %s: %s", submission_id, error)


def _submission(job: JobDetails) -> Submission:
    return Submission(
        id=job.submission_id,
        run=job.metadata[RUN_KEY],
        status=str(job.status.value),
        message=job.message or "",
        exit_code=job.driver_exit_code,
        started_at=(job.start_time or 0) / 1000,
    )
