"""Tracking against a real ``mlflow server`` that goes away, hangs, comes late, or never comes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingAccessError, TrackingError
from orchestrator.tracking.mlflow.client import connect
from orchestrator.tracking.mlflow.open import open_tracker, sync_journals
from orchestrator.tracking.mlflow.runs import check_tracking, list_runs
from orchestrator.tracking.tracker import RunStatus, RunTarget

EXPERIMENT = "server"
SERVER_ENV = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
OUTAGE_S = 15.0
START_S = 180.0


class Server:
    """One server process on a port of its own; its records outlive its restarts."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = [option.replace("PORT", str(self.port)) for option in options]
        self._env = {**SERVER_ENV, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        command = [
            str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--backend-store-uri", f"sqlite:///{self._folder}/server.db", "--workers", "1",
            "--artifacts-destination", str(self._folder / "artifacts"), *self._options,
        ]  # fmt: skip
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self._folder, env=self._env
            )
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            connect(self.uri).get_experiment_by_name("any")
            return True
        except MlflowException:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def target_on(uri: str, name: str) -> RunTarget:
    return RunTarget(uri, EXPERIMENT, name, f"key-of-{name}")


def recorded_steps(uri: str, run_id: str | None) -> list[int]:
    """Steps of ``train/loss``, as often as they were recorded."""
    assert run_id is not None
    history = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "train/loss")
    return sorted(point.step for point in history)


def answer_to(server: Server, host: str, USERNAME: str, PASSWORD: str) -> requests.Response:
    """What a browser gets that was led to the server under another name."""
    query = f"{server.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    headers = {"Host": host.replace("PORT", str(server.port))}
    return requests.get(query, headers=headers, auth=(USERNAME, PASSWORD), timeout=30)


def run_id_of(uri: str, name: str) -> str:
    [row] = [row for row in list_runs(uri, EXPERIMENT) if row.name == name]
    return row.run_id


def test_a_server_that_never_comes_costs_nothing_and_a_later_sync_delivers_all(server: Server, tmp_path: Path) -> None:
    server.kill()
    driver = open_tracker(target_on(server.uri, "late"), tmp_path, "driver", owns_run=True)
    worker = open_tracker(target_on(server.uri, "late"), tmp_path, "worker", owns_run=False)
    for step in range(100):
        worker.log_metrics({"train/loss": float(step)}, step)
    worker.log_text("plan.json", "{}")
    worker.log_checkpoint("s3://bucket/late", 99, {"heldout/loss": 1.0})
    driver.finish(RunStatus.FINISHED)
    assert driver.run_id(timeout_s=1) is None
    assert worker.close(timeout_s=1).entries == 102
    assert driver.close(timeout_s=1).entries == 3
    with pytest.raises(TrackingError, match="not delivered"):
        sync_journals(tmp_path)
    with pytest.raises(TrackingError, match="did not answer"):
        list_runs(server.uri, EXPERIMENT)

    server.start()
    assert [left.entries for left in sync_journals(tmp_path)] == [0, 0]
    [row] = [row for row in list_runs(server.uri, EXPERIMENT) if row.name == "late"]
    assert (row.status, row.checkpoint_uri) == ("FINISHED", "s3://bucket/late")
    assert recorded_steps(server.uri, row.run_id) == list(range(100))
    client = MlflowClient(tracking_uri=server.uri)
    assert [file.path for file in client.list_artifacts(row.run_id)] == ["plan.json"]


def test_an_outage_of_15_s_in_mid_run_loses_nothing(server: Server, tmp_path: Path) -> None:
    server.start()
    tracker = open_tracker(target_on(server.uri, "outage"), tmp_path, "driver", owns_run=True)
    run_id = tracker.run_id(timeout_s=60)
    step = 0
    for phase_s in (3.0, OUTAGE_S):
        end_s = time.monotonic() + phase_s
        while time.monotonic() < end_s:
            tracker.log_metrics({"train/loss": float(step), "train/steps": float(step)}, step)
            step += 1
            time.sleep(0.02)
        server.kill()
    server.start()
    tracker.log_metrics({"train/loss": float(step), "train/steps": float(step)}, step)
    tracker.finish(RunStatus.FINISHED)
    left = tracker.close(timeout_s=60)
    assert (left.entries, left.refused, left.dropped) == (0, 0, 0)
    assert recorded_steps(server.uri, run_id) == list(range(step + 1))
    [row] = [row for row in list_runs(server.uri, EXPERIMENT) if row.name == "outage"]
    assert (row.status, row.steps) == ("FINISHED", step)


def test_a_killed_writer_loses_nothing_that_it_recorded(server: Server, tmp_path: Path) -> None:
    server.start()
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.tracking.mlflow.open import open_tracker\n"
        "from orchestrator.tracking.tracker import RunTarget\n"
        f"target = RunTarget(sys.argv[1], {EXPERIMENT!r}, 'killed', 'key-of-killed')\n"
        "tracker = open_tracker(target, Path(sys.argv[2]), 'driver', owns_run=True)\n"
        "for step in range(500): tracker.log_metrics({'train/loss': float(step)}, step)\n"
        "tracker.run_id(timeout_s=60)\n"
        "for step in range(500, 900): tracker.log_metrics({'train/loss': float(step)}, step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, server.uri, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert [left.entries for left in sync_journals(tmp_path)] == [0]
    assert recorded_steps(server.uri, run_id_of(server.uri, "killed")) == list(range(900))


def test_a_server_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracker = open_tracker(target_on(uri, "hung"), tmp_path, "driver", owns_run=True)
        tracker.log_metrics({"train/loss": 1.0}, 1)
        started_s = time.monotonic()
        left = tracker.close(timeout_s=1)
        assert time.monotonic() - started_s < 9  # less than the client's own time limit of 10 s
        assert left.entries == 3


@pytest.mark.full
def test_a_server_with_users_refuses_foreign_hosts_and_a_wrong_password_which_in_mid_run_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] brings the server's users")
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{tmp_path}/users.db\n"
    )
    user = {"USERNAME": "keeper", "PASSWORD": "a long password"}
    environment = {f"MLFLOW_AUTH_ADMIN_{name}": value for name, value in user.items()}
    environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"}
    for name, value in user.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    server = Server(tmp_path, "--app-name", "basic-auth", "--allowed-hosts", "127.0.0.1:PORT", **environment)
    try:
        server.start()
        assert check_tracking(server.uri)
        assert answer_to(server, "127.0.0.1:PORT", **user).ok
        for host in ("rebound.example.org", "rebound.example.org:PORT", "127.0.0.1"):
            assert answer_to(server, host, **user).status_code == 403
        tracker = open_tracker(target_on(server.uri, "locked"), tmp_path, "driver", owns_run=True)
        tracker.log_metrics({"train/loss": 1.0}, 1)
        tracker.finish(RunStatus.FINISHED)
        assert tracker.close(timeout_s=60).entries == 0
        [row] = list_runs(server.uri, EXPERIMENT)
        assert (row.name, row.status) == ("locked", "FINISHED")

        later = open_tracker(target_on(server.uri, "expires"), tmp_path / "later", "driver", owns_run=True)
        later.log_metrics({"train/loss": 1.0}, 1)
        assert later.run_id(timeout_s=60) is not None
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another password")
        later.log_metrics({"train/loss": 0.5}, 2)
        later.log_text("note.txt", "kept")
        assert later.close(timeout_s=4).entries > 0
        with pytest.raises(TrackingAccessError, match="refuses the credentials"):
            check_tracking(server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user["PASSWORD"])
        again = open_tracker(target_on(server.uri, "expires"), tmp_path / "later", "driver", owns_run=True)
        assert again.close(timeout_s=60).entries == 0
        assert recorded_steps(server.uri, run_id_of(server.uri, "expires")) == [1, 2]
    finally:
        server.kill()
