"""``orchestrator runs`` over a real MLflow database, and what a run's end prints."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cli.results import mlflow_page, print_evaluation
from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.results import ProbeResult
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.tracker import TAG_OBJECTIVE, RunStatus, RunTarget

CLUSTER = "name: here\nworkers: {count: 1, accelerator: cpu}\nstorage: {data: data, runs: RUNS}\n"


@pytest.fixture
def cluster(tmp_path: Path) -> str:
    (tmp_path / "cluster.yaml").write_text(CLUSTER.replace("RUNS", str(tmp_path / "runs")))
    return str(tmp_path)


def test_no_runs_are_said_and_make_no_database(tmp_path: Path, cluster: str) -> None:
    shown = CliRunner().invoke(app, ["runs", "--cluster", cluster])
    assert shown.exit_code == 0
    assert "no runs in experiment vl-orchestrator" in shown.output
    assert not (tmp_path / "runs").exists()
    shown = CliRunner().invoke(app, ["runs", "--cluster", cluster, "--json"])
    assert json.loads(shown.stdout) == []


def test_runs_are_listed_with_what_mlflow_knows(tmp_path: Path, cluster: str) -> None:
    target = RunTarget(
        f"sqlite:///{tmp_path}/runs/mlflow.db", "vl-orchestrator", "clip-small", "key-1", {TAG_OBJECTIVE: "clip"}
    )
    folder = tmp_path / "runs" / "clip-small" / "tracking"
    folder.mkdir(parents=True)
    tracker = open_tracker(target, folder, "driver", owns_run=True)
    found = {"eval/scenes/linear_probe/named/mean_accuracy": 0.5, "eval/scenes/linear_probe/all/mean_accuracy": 0.25}
    tracker.log_metrics(found | {"eval/scenes/retrieval/image_to_text/mean_rank": float("nan")}, 1)
    tracker.finish(RunStatus.FAILED, "the disk is full")
    tracker.close()

    shown = CliRunner().invoke(app, ["runs", "--cluster", cluster, "--sync", "--json"])
    assert shown.exit_code == 0, shown.output
    (row,) = json.loads(shown.stdout, parse_constant=pytest.fail)
    assert row["evaluation"]["eval/scenes/retrieval/image_to_text/mean_rank"] is None
    assert (row["name"], row["status"], row["objective"]) == ("clip-small", "FAILED", "clip")
    assert row["reason"] == "the disk is full"
    assert datetime.fromisoformat(row["started"]).tzinfo is not None
    table = CliRunner().invoke(app, ["runs", "--cluster", cluster]).output.splitlines()
    assert table[0].split()[:4] == ["run", "status", "objective", "steps"]
    assert table[1].split()[:4] == ["clip-small", "FAILED", "clip", "0.500"]
    assert "mlflow ui --backend-store-uri" in table[-1]


def test_the_page_of_a_server_is_its_url_and_that_of_a_file_a_command() -> None:
    assert mlflow_page("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    command = mlflow_page("sqlite:////home/me/my runs/mlflow.db")
    assert command.endswith("mlflow ui --backend-store-uri 'sqlite:////home/me/my runs/mlflow.db'")


def test_a_probe_that_does_not_apply_is_listed_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    shared = {"set": "scenes-eval", "target": "shape", "named_in_captions": True, "num_classes": 8}
    scores = {"accuracy": Estimate(0.8125, 0.75, 0.875)}
    print_evaluation(
        [
            ProbeResult(**shared, probe="linear_probe", feature="pooled", scores=scores, chance=0.125),
            ProbeResult(**shared, probe="zero_shot", feature="embedding", reason="no text tower"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "scenes-eval",
        "linear_probe",
        "shape",
        "pooled",
        "accuracy",
        "0.812",
        *["0.750", "to", "0.875"],
        "0.125",
        "8",
        "yes",
    ]
    assert "no text tower" in lines[2]
