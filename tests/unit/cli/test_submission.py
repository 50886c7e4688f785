"""``jobs``, ``logs``, ``stop`` and ``doctor`` on a place that takes no submissions; Ray is in ``tests/ray``."""

import json
import re
import socket
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.env import SUBMISSION_ENV
from orchestrator.errors import PlanError, RunNotFoundError
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.live import LivePost, LiveRecord, read_live_record
from orchestrator.storage.store import open_store
from orchestrator.tracking.tracker import RunStatus

CLUSTER = "name: here\nworkers: {count: 1, accelerator: cpu}\nstorage: {data: ROOT, runs: ROOT/runs}\n"


@pytest.fixture
def cluster(tmp_path: Path) -> str:
    (tmp_path / "cluster.yaml").write_text(CLUSTER.replace("ROOT", str(tmp_path)))
    return str(tmp_path)


def test_a_run_is_listed_and_stopped_through_its_folder(tmp_path: Path, cluster: str) -> None:
    assert "no jobs on cluster here" in CliRunner().invoke(app, ["jobs", "--cluster", cluster]).output
    stop = StopRequest()

    def look() -> LiveRecord:
        status = RunStatus.KILLED if stop.requested else RunStatus.RUNNING
        return LiveRecord(
            "small", None, status, 40, 100, 32, 64.0, "", "http://mlflow", "abc", time.time(), stop.reason
        )

    store = open_store(str(tmp_path / "runs" / "small"))
    with LivePost(store, stop, look, {}, 1, interval_s=0.05):
        while read_live_record(store) is None:
            time.sleep(0.02)
        table = CliRunner().invoke(app, ["jobs", "--cluster", cluster]).output
        assert re.search(r"small +RUNNING +40 of 100 steps +64 +0 min +http://mlflow/#/runs/abc", table)
        stopped = CliRunner().invoke(app, ["stop", "small", "--cluster", cluster, "--deadline", "20"])
    assert stopped.output.strip().endswith("small has ended")
    [row] = json.loads(CliRunner().invoke(app, ["jobs", "--cluster", cluster, "--json"]).stdout)
    assert row["state"] == "KILLED"
    assert row["reason"].startswith("stop asked for by")
    again = CliRunner().invoke(app, ["stop", "small", "--cluster", cluster])
    assert isinstance(again.exception, RunNotFoundError)


@pytest.mark.parametrize("name", ["small", "small-3"])
def test_a_run_is_stopped_through_its_folder_where_no_dashboard_answers(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "put back afterwards")
    monkeypatch.setenv(SUBMISSION_ENV, "small-3")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        dashboard = f"http://127.0.0.1:{closed.getsockname()[1]}"
        submit = f"submit: {{dashboard: '{dashboard}', patience_s: 0}}\n"
        (tmp_path / "cluster.yaml").write_text(CLUSTER.replace("ROOT", str(tmp_path)) + submit)
        stop = StopRequest()

        def look() -> LiveRecord:
            status = RunStatus.KILLED if stop.requested else RunStatus.RUNNING
            return LiveRecord("small", "small-3", status, 40, 100, 32, 64.0, "", "", None, time.time(), stop.reason)

        store = open_store(str(tmp_path / "runs" / "small"))
        with LivePost(store, stop, look, {}, 1, interval_s=0.05):
            while read_live_record(store) is None:
                time.sleep(0.02)
            stopped = CliRunner().invoke(app, ["stop", name, "--cluster", cluster, "--deadline", "20"])
    assert stopped.exit_code == 0
    assert stopped.stdout.strip() == f"{name} has ended"
    assert f"no Ray answers at {dashboard}" in stopped.stderr
    assert f"the run is asked through its folder in file://{tmp_path}/runs" in stopped.stderr


def test_what_needs_a_dashboard_says_so_and_wrong_ranks_are_refused(cluster: str) -> None:
    shown = CliRunner().invoke(app, ["logs", "small-1", "--cluster", cluster])
    assert isinstance(shown.exception, PlanError)
    assert "submit.dashboard" in str(shown.exception)
    for options in (["--rank", "first"], ["--rank", "all", "--follow"]):
        assert CliRunner().invoke(app, ["logs", "small-1", "--cluster", cluster, *options]).exit_code == 2


def test_doctor_looks_at_a_place_from_where_it_is(tmp_path: Path, cluster: str) -> None:
    found = json.loads(CliRunner().invoke(app, ["doctor", "--cluster", cluster, "--json"]).stdout)
    assert {"data", "runs", "MLflow", "noun table"} <= {finding["subject"] for finding in found if finding["holds"]}
    (tmp_path / "cluster.yaml").write_text(CLUSTER.replace("ROOT", str(tmp_path / "absent")))
    shown = CliRunner().invoke(app, ["doctor", "--cluster", cluster])
    assert shown.exit_code == 1
    assert "✗ data: folder" in shown.output
    assert "does not exist" in shown.output


def test_a_folder_of_a_cluster_that_is_not_mounted_here_is_not_made(tmp_path: Path) -> None:
    group = "{nodes: 1, workers: 1, cpus: 4, memory: 16Gi}"
    launch = f"launch: {{kind: slurm, group: {group}, time_limit: '1:00:00', work_folder: /shared}}\n"
    (tmp_path / "cluster.yaml").write_text(CLUSTER.replace("ROOT", str(tmp_path / "absent")) + launch)
    job = str(Path(__file__).parents[3] / "jobs" / "synthetic.yaml")
    for command in (["doctor"], ["check", job, "--set", "workers=1"]):
        shown = CliRunner().invoke(app, [*command, "--cluster", str(tmp_path)])
        assert shown.exit_code in (1, 2)
        assert re.search(r"✗ runs( folder)?: folder \S+absent/runs is not on this machine", shown.output)
    assert not (tmp_path / "absent").exists()
    assert "versions here" not in shown.output
