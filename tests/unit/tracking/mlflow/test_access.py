"""A server that refuses the user is told from one that is away, over real HTTP."""

import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.errors import TrackingAccessError
from orchestrator.tracking.mlflow.client import connect
from orchestrator.tracking.mlflow.runs import check_tracking


class Refusal(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_refused_credentials_are_said_and_a_server_that_is_away_is_no_error(refusing: str) -> None:
    with pytest.raises(TrackingAccessError, match="MLFLOW_TRACKING_PASSWORD"):
        check_tracking(refusing)
    assert not check_tracking("http://127.0.0.1:9")


def test_a_database_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        connect(f"sqlite:///{tmp_path}/runs/mlflow.db").search_experiments()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "runs" / "mlflow.db").stat().st_mode) == 0o600
