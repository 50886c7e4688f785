"""A dashboard that speaks what is used of Ray's about logs: they grow, end, and go with their nodes as a test wants."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_POLL_S = 0.02


class RayDashboard:
    """One submission of state ``status``, and a log for each actor that Ray still has."""

    def __init__(self) -> None:
        self.status = "RUNNING"
        self.logs: dict[str, bytes] = {}
        """By actor; what is taken away is gone with its node."""
        self.token = ""
        self.num_streams = 0
        """That are open."""
        self.num_sent = 0
        """Bytes of logs."""
        self.cuts = 0
        """Raised by one, it breaks all open streams off."""


@contextlib.contextmanager
def ray_dashboard() -> Iterator[tuple[RayDashboard, str]]:
    """A dashboard, and its address."""
    dashboard, ended = RayDashboard(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            [actor] = parse_qs(url.query).get("actor_id", [""])
            if dashboard.token and self.headers.get("Authorization") != f"Bearer {dashboard.token}":
                self._answer(401, b"Unauthorized")
            elif url.path == "/api/version":
                self._answer(200, json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": ""}).encode())
            elif url.path.startswith("/api/jobs/"):
                job = {"type": "SUBMISSION", "submission_id": "small-1", "entrypoint": "", "status": dashboard.status}
                self._answer(200, json.dumps(job).encode())
            elif actor not in dashboard.logs:
                self._answer(500, b"Agent for the node doesn't exist.")
            elif url.path.endswith("/file"):
                self._answer(200, dashboard.logs[actor])
            else:
                self._stream(actor)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, actor: str) -> None:
            """Without an end; Ray's sends no header either before there is something in the log."""
            sent, cuts = 0, dashboard.cuts
            dashboard.num_streams += 1
            with contextlib.suppress(ConnectionError):
                while actor in dashboard.logs and dashboard.cuts == cuts and not ended.is_set():
                    if part := dashboard.logs[actor][sent:]:
                        if not sent:
                            self.send_response(200)
                            self.end_headers()
                        self.wfile.write(part)
                        sent += len(part)
                        dashboard.num_sent += len(part)
                    time.sleep(_POLL_S)
            dashboard.num_streams -= 1

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield dashboard, f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
