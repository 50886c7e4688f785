"""Ray's Jobs API as this package uses it: one connection with token, verified TLS and errors that say what to do.

Ray's own client does the talking. It would follow ``RAY_ADDRESS`` elsewhere, waits without an end, and tells a
refused token like a cluster that is away; ``_Client`` mends these.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from orchestrator.errors import ClusterAccessError, RunNotFoundError
from orchestrator.launch.kuberay import RUN_KEY
from orchestrator.launch.log_stream import read_stream
from orchestrator.launch.ray_token import TOKEN_ENV, TOKEN_PATH_ENV, authorization, read_token, token_file
from orchestrator.launch.submission import ENDED, Submission
from orchestrator.spec.cluster_submit import SubmitSpec

logger = logging.getLogger(__name__)
for _name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # they tell every upload

_TIMEOUT_S = 30.0
_RETRY_S, _FOLLOW_S = 3.0, 2.0
_REFUSED = (401, 403)


class ClusterAwayError(ClusterAccessError):
    """Nobody answers: worth another try."""


class RayJobs:
    """The jobs of one cluster."""

    def __init__(self, client: "_Client") -> None:
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
        """A submission by its id, or the last one of a run.

        Raises:
            RunNotFoundError: the cluster knows none of ours.
        """
        submissions = self.list()
        for submission in (*(found for found in submissions if found.id == name), *submissions):
            if name in (submission.id, submission.run):
                return submission
        raise RunNotFoundError(f"{self.address} knows no submission '{name}'; 'orchestrator jobs' lists them")

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
        except RuntimeError as error:  # among others, an id that somebody else has used a moment ago
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
        answer = self._client._do_request("GET", f"/api/v0/logs/file?{_actor_query(actor)}")
        if answer.status_code != 200:
            raise _log_is_gone(actor, answer.text)
        return answer.content

    def tail_actor(self, actor: str) -> Iterator[bytes]:
        """The same and what it prints, each byte once; empty parts while it prints nothing. Ends where the connection
        breaks off.

        Raises:
            RunNotFoundError: Ray has it no more.
        """
        return self._client.tail_actor(actor)

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
            return RayJobs(_Client(submit))
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


def _ca_file(submit: SubmitSpec) -> str | None:
    if submit.ca_file is None:
        return None
    file = str(Path(submit.ca_file).expanduser())
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # SSLError is one
        raise ClusterAccessError(
            f"submit.ca_file: {file} does not read as certificates ({error}); name the file with those that vouch for "
            f"the dashboard's, or leave it out for the system's"
        ) from error
    return file


class _Client(JobSubmissionClient):
    """Ray's client, at the cluster file's address alone. What is overridden is not public: ``ray`` is pinned."""

    def __init__(self, submit: SubmitSpec) -> None:
        self._url = submit.dashboard.rstrip("/")
        os.environ["RAY_API_SERVER_ADDRESS"] = self._url  # a RAY_ADDRESS of the shell's would lead elsewhere
        super().__init__(self._url, headers=authorization(), verify=_ca_file(submit) or True)
        if submit.ca_file is None:
            self._ssl_context = True  # the system's; None, as Ray has it, is what aiohttp calls deprecated

    def tail(self, submission_id: str) -> Iterator[str]:
        """What the driver has printed and prints, until it ends or the connection breaks off.

        Raises:
            ClusterAccessError: nobody lets us listen.
        """
        from aiohttp import ClientError, WSServerHandshakeError  # comes with ray[default]; nothing else here needs it

        self._headers.update(authorization())
        lines = self.tail_job_logs(submission_id)
        with asyncio.Runner() as runner:
            while True:
                try:
                    part = runner.run(anext(lines))
                except StopAsyncIteration:
                    return
                except WSServerHandshakeError as error:
                    refused = (
                        self._refusal() if error.status in _REFUSED else f"{self._url} lets nobody follow: {error}"
                    )
                    raise ClusterAccessError(refused) from error
                except (RuntimeError, ClientError) as error:
                    logger.debug("the connection to %s broke off: %s", submission_id, error)
                    return
                yield part

    def tail_actor(self, actor: str) -> Iterator[bytes]:
        """See ``RayJobs.tail_actor``."""
        from aiohttp import ClientResponseError

        url = f"{self._url}/api/v0/logs/stream?{_actor_query(actor)}"
        try:
            yield from read_stream(url, self._headers | authorization(), self._ssl_context, _FOLLOW_S)
        except ClientResponseError as error:
            if error.status in _REFUSED:
                raise ClusterAccessError(self._refusal()) from error
            raise _log_is_gone(actor, error.message) from error

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        self._headers.update(authorization())
        try:
            answer: requests.Response = super()._do_request(method, endpoint, **({"timeout": _TIMEOUT_S} | options))
        except AuthenticationError as error:
            raise ClusterAccessError(self._refusal()) from error
        except requests.exceptions.SSLError as error:
            raise ClusterAccessError(
                f"submit.dashboard: the certificate of {self._url} is not trusted ({error}); name what vouches for it "
                f"with submit.ca_file in the cluster file"
            ) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise ClusterAwayError(
                f"submit.dashboard: no Ray answers at {self._url}; start it, open the way there (VPN, tunnel), or "
                f"correct the address in the cluster file"
            ) from error
        except requests.exceptions.RequestException as error:
            raise ClusterAccessError(f"submit.dashboard: {self._url} is no Ray dashboard: {error}") from error
        return answer

    def _refusal(self) -> str:
        if read_token() is None:
            where = f"{TOKEN_ENV}, {TOKEN_PATH_ENV} or ~/.ray/auth_token"
            return f"{self._url} asks for a token and there is none here; put the cluster's into {where}"
        place = f"variable {TOKEN_ENV}" if os.environ.get(TOKEN_ENV) else f"file {token_file()}"
        return (
            f"{self._url} refuses this token, that of {place}: it has expired, was replaced, or is another cluster's; "
            f"put the valid one there. Jobs that run there go on"
        )


def _actor_query(actor: str) -> str:
    return urlencode({"actor_id": actor, "suffix": "err", "lines": -1})


def _log_is_gone(actor: str, said: str) -> RunNotFoundError:
    return RunNotFoundError(f"Ray has no log of actor {actor} ({said.strip()}); its node may be gone")


def _submission(job: JobDetails) -> Submission:
    return Submission(
        id=job.submission_id,
        run=job.metadata[RUN_KEY],
        status=str(job.status.value),
        message=job.message or "",
        exit_code=job.driver_exit_code,
        started_at=(job.start_time or 0) / 1000,
    )
