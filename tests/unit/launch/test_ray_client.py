"""What answers where a cluster file says Ray's dashboard is, and is none; and what lies where a token should."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp import web

from orchestrator.errors import ClusterAccessError
from orchestrator.launch.kuberay import RUN_KEY
from orchestrator.launch.ray_client import ClusterAwayError, RayClient
from orchestrator.launch.ray_jobs import connect
from orchestrator.spec.cluster_submit import SubmitSpec

VERSION = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})


@contextlib.contextmanager
def server(status: int, body: str, version: str = "") -> Iterator[tuple[str, list[str | None]]]:
    """Answers everything alike, but for ``version``; its address, and which authorization each request had."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            is_version = version and self.path == "/api/version"
            self.send_response(200 if is_version else status)
            self.end_headers()
            self.wfile.write((version if is_version else body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", asked
        serving.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "put back afterwards")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-this-test")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("status", "body"), [(200, "<html>log in</html>"), (200, "{}"), (200, "[]"), (404, "no"), (500, "oh")]
)
def test_what_is_no_dashboard_is_named_with_the_key(status: int, body: str) -> None:
    with server(status, body) as (url, _), pytest.raises(ClusterAccessError) as refused:
        RayClient(SubmitSpec(dashboard=url))
    assert f"submit.dashboard: what answers at {url} is no Ray dashboard" in str(refused.value)


def test_a_proxy_before_a_ray_that_is_away_is_worth_another_try() -> None:
    with server(502, "<html>bad gateway</html>") as (url, _), pytest.raises(ClusterAwayError, match="status 502"):
        RayClient(SubmitSpec(dashboard=url))


def test_a_ray_that_was_started_anew_is_named_and_not_its_traceback() -> None:
    with server(404, "Traceback ...\nJob small-1 does not exist\n.", VERSION) as (url, _):
        jobs = connect(SubmitSpec(dashboard=url))
        for ask in (lambda: jobs.wait("small-1", 0), lambda: jobs.driver_log("small-1"), jobs.list):
            with pytest.raises(
                ClusterAccessError, match=r"status 404: Job small-1 does not exist; where Ray was started anew"
            ):
                ask()


def test_a_log_that_nobody_reads_any_more_is_left_in_silence(home: Path) -> None:
    """As `head` leaves it."""
    job = {"type": "SUBMISSION", "status": "RUNNING", "entrypoint": "", "submission_id": "small-1"}

    async def version(_: web.Request) -> web.Response:
        return web.json_response(json.loads(VERSION))

    async def jobs(_: web.Request) -> web.Response:
        return web.json_response([{**job, "metadata": {RUN_KEY: "small"}}])

    async def tail(request: web.Request) -> web.WebSocketResponse:
        log = web.WebSocketResponse()
        await log.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not log.closed:
                await log.send_str("a line\n" * 1000)
        return log

    async def serve() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    dashboard = web.Application()
    routes = {"/api/version": version, "/api/jobs/": jobs, "/api/jobs/small-1/logs/tail": tail}
    dashboard.add_routes([web.get(path, answer) for path, answer in routes.items()])
    runner, loop = web.AppRunner(dashboard, shutdown_timeout=1), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(serve(), loop).result(20)
    place = {"name": "there", "workers": {"count": 1, "accelerator": "cpu"}, "storage": {"data": "/d", "runs": "/r"}}
    (home / "cluster.yaml").write_text(json.dumps({**place, "submit": {"dashboard": f"http://127.0.0.1:{port}"}}))
    command = f"{sys.executable} -m orchestrator.cli.main logs small --cluster {home} --follow | head -1"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("a line\n", "")
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_https_where_nobody_speaks_it_is_no_matter_of_certificates() -> None:
    with server(200, VERSION) as (url, _), pytest.raises(ClusterAccessError) as refused:
        RayClient(SubmitSpec(dashboard=url.replace("http", "https")))
    assert "no TLS can be spoken" in str(refused.value)
    assert "ca_file" not in str(refused.value)


def test_a_user_of_netrc_does_not_take_the_tokens_place(home: Path) -> None:
    (home / ".netrc").write_text("default login me password of-another-place\n")
    (home / ".netrc").chmod(0o600)
    with server(200, VERSION) as (url, asked):
        RayClient(SubmitSpec(dashboard=url))
    assert set(asked) == {"Bearer of-this-test"}


def test_a_token_with_blanks_around_it_is_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", " of-this-test\n")
    with server(200, VERSION) as (url, asked):
        RayClient(SubmitSpec(dashboard=url))
    assert set(asked) == {"Bearer of-this-test"}


@pytest.mark.parametrize("content", [b"# mine\nK7MDENG-secret\n", b"\xff\xfeK7MDENG-secret", "K7MDENG\u20ac".encode()])
def test_what_cannot_be_a_token_is_named_by_its_place_and_not_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    file = home / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with server(200, VERSION) as (url, _), pytest.raises(ClusterAccessError) as refused:
        RayClient(SubmitSpec(dashboard=url))
    assert str(file) in str(refused.value)
    assert "K7MDENG" not in str(refused.value)


def test_a_shell_that_asks_for_a_token_and_has_none_is_told_where_it_was_looked_for(home: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "absent")}
    del environment["RAY_AUTH_TOKEN"]
    with server(200, VERSION) as (url, _):
        program = (
            "from orchestrator.launch.ray_client import RayClient, SubmitSpec\n"
            f"RayClient(SubmitSpec(dashboard={url!r}))"
        )
        shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "ClusterAccessError" in shown.stderr
    assert f"none here, in file {home}/absent" in shown.stderr
