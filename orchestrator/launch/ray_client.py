"""Ray's own client of its Jobs API, at the cluster file's address alone, with token and verified TLS.

It would follow ``RAY_ADDRESS`` elsewhere, waits without an end, and tells a refused token, a proxy and a cluster that
is away alike; what is overridden here is not public: ``ray`` is pinned.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from orchestrator.errors import ClusterAccessError, RunNotFoundError
from orchestrator.launch.log_stream import read_stream
from orchestrator.launch.ray_token import TOKEN_ENV, TOKEN_PATH_ENV, authorization, read_token, token_place
from orchestrator.redaction import redact
from orchestrator.spec.cluster_submit import SubmitSpec

logger = logging.getLogger(__name__)
for _name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.WARNING)  # they tell every upload, and that a log has ended

_TIMEOUT_S = 30.0
_REFUSED = (401, 403)
_AWAY = (502, 503, 504)  # a proxy's words for a server that does not answer


class ClusterAwayError(ClusterAccessError):
    """Nobody answers: worth another try."""


class RequestRefusedError(ClusterAccessError):
    """Ray answers, and does not do what is asked."""


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


def _as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """For ``requests``, which would put a user of ``~/.netrc`` in the token's place where nothing else is said."""
    return request


class RayClient(JobSubmissionClient):
    """One cluster's dashboard.

    Raises:
        ClusterAwayError: nobody answers.
        ClusterAccessError: what answers is no Ray dashboard, its certificate is not trusted, or it refuses the token.
    """

    def __init__(self, submit: SubmitSpec) -> None:
        self._url = submit.dashboard.rstrip("/")
        os.environ["RAY_API_SERVER_ADDRESS"] = self._url  # a RAY_ADDRESS of the shell's would lead elsewhere
        try:
            super().__init__(self._url, headers=authorization(), verify=_ca_file(submit) or True)
        except AuthenticationError as error:  # this shell's RAY_AUTH_MODE asks for a token
            raise ClusterAccessError(self._refusal()) from error
        except (requests.exceptions.RequestException, RuntimeError, LookupError, TypeError, ValueError) as error:
            raise self._no_dashboard(error) from error
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
            try:
                while (part := runner.run(anext(lines, None))) is not None:
                    yield part
            except WSServerHandshakeError as error:
                refused = self._refusal() if error.status in _REFUSED else f"{self._url} lets nobody follow: {error}"
                raise ClusterAccessError(refused) from error
            except (RuntimeError, ClientError) as error:
                logger.debug("the connection to %s broke off: %s", submission_id, error)
            finally:
                runner.run(lines.aclose())  # its reader may have had enough, such as `head`

    def tail_actor(self, actor: str, quiet_after_s: float) -> Iterator[bytes]:
        """See ``RayJobs.tail_actor``."""
        from aiohttp import ClientResponseError

        url = f"{self._url}/api/v0/logs/stream?{actor_query(actor)}"
        try:
            yield from read_stream(url, self._headers | authorization(), self._ssl_context, quiet_after_s)
        except ClientResponseError as error:
            if error.status in _REFUSED:
                raise ClusterAccessError(self._refusal()) from error
            raise log_is_gone(actor, error.message) from error

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        self._headers.update(authorization())
        try:
            answer: requests.Response = super()._do_request(
                method, endpoint, **({"timeout": _TIMEOUT_S, "auth": _as_given} | options)
            )
        except AuthenticationError as error:
            raise ClusterAccessError(self._refusal()) from error
        except requests.exceptions.SSLError as error:
            raise ClusterAccessError(self._no_tls(error)) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise self._away("no Ray answers") from error
        except requests.exceptions.RequestException as error:
            raise self._no_dashboard(error) from error
        if answer.status_code in _AWAY:
            raise self._away(f"a proxy finds no Ray (status {answer.status_code})")
        return answer

    def _raise_error(self, r: requests.Response) -> NoReturn:
        lines = [line for line in r.text.splitlines() if line.strip(" .")]  # a traceback of Ray's own, then a dot
        said = redact(lines[-1] if lines else r.reason)[-500:]
        hint = "; where Ray was started anew, it knows no earlier submission" if r.status_code == 404 else ""
        raise RequestRefusedError(f"Ray at {self._url} answers with status {r.status_code}: {said}{hint}")

    def _away(self, what: str) -> ClusterAwayError:
        return ClusterAwayError(
            f"submit.dashboard: {what} at {self._url}; start it, open the way there (VPN, tunnel), or correct the "
            f"address in the cluster file"
        )

    def _no_dashboard(self, error: Exception) -> ClusterAccessError:
        return ClusterAccessError(
            f"submit.dashboard: what answers at {self._url} is no Ray dashboard ({error}); correct the address in the "
            f"cluster file, or log in where a proxy asks for it"
        )

    def _no_tls(self, error: requests.exceptions.SSLError) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return (
                f"submit.dashboard: the certificate of {self._url} is not trusted ({error}); name what vouches for it "
                f"with submit.ca_file in the cluster file"
            )
        return (
            f"submit.dashboard: no TLS can be spoken with {self._url} ({error}); put a proxy with TLS there, or write "
            f"http:// in the cluster file where the network is your own"
        )

    def _refusal(self) -> str:
        if read_token() is None:
            where = f"{TOKEN_ENV}, {TOKEN_PATH_ENV} or ~/.ray/auth_token"
            return (
                f"{self._url} asks for a token and there is none here, in {token_place()}; put the cluster's into "
                f"{where}"
            )
        return (
            f"{self._url} refuses this token, that of {token_place()}: it has expired, was replaced, or is another "
            f"cluster's; put the valid one there. Jobs that run there go on"
        )


def actor_query(actor: str) -> str:
    """What asks for all that an actor has printed on stderr, where our logging goes."""
    return urlencode({"actor_id": actor, "suffix": "err", "lines": -1})


def log_is_gone(actor: str, said: str) -> RunNotFoundError:
    """Ray keeps a log on its actor's node."""
    return RunNotFoundError(f"Ray has no log of actor {actor} ({said.strip()}); its node may be gone")
