"""``orchestrator compare`` over real folders and a real MLflow database."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comparisons import METRIC, comparison
from orchestrator.cli.main import app
from orchestrator.runs.folder import claim_run
from orchestrator.runs.target import run_target
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import load_cluster
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow import runs as mlflow_runs
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.tracker import RunStatus

JOB = {
    "kind": "pretrain",
    "objective": {"name": "clip"},
    "data": {"kind": "synthetic"},
    "model": {"preset": "vit_nano_32"},
    "batch": {"global_size": 32},
    "optimizer": {"learning_rate": 1e-3},
    "budget": {"steps": 8},
}
Record = Callable[[str, str, float], Plan]


@pytest.fixture
def cluster(tmp_path: Path) -> str:
    """Two storages, and one MLflow for both."""
    for storage in ("ours", "theirs"):
        (tmp_path / storage).mkdir()
        (tmp_path / storage / "cluster.yaml").write_text(
            f"name: here\nworkers: {{count: 1, accelerator: cpu}}\n"
            f"storage: {{data: data, runs: {tmp_path}/{storage}/runs}}\ntracking: {{uri: sqlite:///{tmp_path}/mlflow.db}}\n"
        )
    return str(tmp_path / "ours")


@pytest.fixture
def record(tmp_path: Path, cluster: str) -> Record:
    """``record("ours", name, score)``: a run that ended, in its folder and in MLflow."""

    def make(storage: str, name: str, score: float) -> Plan:
        facts = Facts(machine=MachineFacts(num_cores=1, num_cpus=2, decoder="d"))
        job = PretrainSpec.model_validate({**JOB, "name": name})
        plan = resolve_plan(job, load_cluster(str(tmp_path / storage)), facts)
        key = claim_run(open_store(plan.run_uri), plan)
        (tmp_path / storage / "runs" / name / "tracking").mkdir()
        folder = tmp_path / storage / "runs" / name / "tracking"
        tracker = open_tracker(run_target(plan, key), folder, "driver", owns_run=True)
        tracker.log_metrics({METRIC: score, f"{METRIC}/low": 0.0}, 1)
        tracker.finish(RunStatus.FINISHED)
        assert tracker.close().entries == 0
        return plan

    return make


def test_runs_are_found_by_their_key_not_by_their_name(
    cluster: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record("ours", "clip-r0", 0.25)
    record("ours", "clip-r1", 0.5)
    record("theirs", "clip-r0", 0.75)  # newer, of another storage on the same server
    pages, looked = mlflow_runs._pages, []
    monkeypatch.setattr(mlflow_runs, "_pages", lambda *given: looked.append(given) or pages(*given))
    shown = CliRunner().invoke(app, ["compare", "clip-r0", "clip-r1", "--cluster", cluster, "--json"])
    assert shown.exit_code == 0, shown.output
    assert [(row["run"], row["scores"][METRIC]) for row in json.loads(shown.stdout)] == [
        ("clip-r0", 0.25),
        ("clip-r1", 0.5),
    ]
    assert len(looked) == 1, "the experiment is listed once"


def test_a_comparison_shows_its_verdict_means_and_spread(tmp_path: Path, cluster: str, record: Record) -> None:
    plans = {name: record("ours", name, 0.5) for name in ("clip-0", "clip-1", "siglip-0")}
    made = comparison({"clip": [0.5, 0.6], "siglip": [0.7]})
    trials = tuple(trial.model_copy(update={"run_uri": plans[trial.run].run_uri}) for trial in made.trials)
    baseline = trials[0].model_copy(update={"objective": "openai", "scores": {METRIC: 0.875}})
    made = made.model_copy(update={"trials": trials, "baselines": (baseline,)})
    folder = tmp_path / "ours" / "runs" / "which"
    folder.mkdir()
    (folder / "comparison.json").write_text(made.model_dump_json())
    shown = CliRunner().invoke(app, ["compare", "which", "--cluster", cluster, "--json"])
    assert shown.exit_code == 0, shown.output
    whole, *runs = json.loads(shown.stdout)
    assert whole["verdict"].startswith("No verdict: 1 replicate shows a spread only")
    assert whole["objectives"]["clip"]["mean"] == pytest.approx(0.55)
    assert whole["objectives"]["clip"]["spread"] == pytest.approx(0.0707, abs=1e-4)
    assert whole["objectives"]["siglip"] == {"mean": 0.7, "spread": None, "scores": [0.7]}
    assert whole["baselines"] == {"openai": 0.875}
    assert [row["run"] for row in runs] == ["clip-0", "clip-1", "siglip-0"]
    said = CliRunner().invoke(app, ["compare", "which", "--cluster", cluster], terminal_width=300).output
    words = said.split()
    assert "No verdict: 1 replicate shows a spread only, 3 or more give one; siglip 70.0 %" in " ".join(words)
    assert {"0.5500", "0.0707", "0.8750"} <= set(words)


def test_a_score_that_is_not_finite_is_null_in_json(cluster: str, record: Record) -> None:
    record("ours", "clip-r0", float("nan"))
    shown = CliRunner().invoke(app, ["compare", "clip-r0", "--cluster", cluster, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)[0]["scores"].get(METRIC) is None
    assert "NaN" not in shown.stdout
