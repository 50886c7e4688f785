"""The summary at the end of a run says how it ended and where everything is."""

from pathlib import Path

import pytest

from comparisons import comparison, trial
from orchestrator.cli.compare import print_compare
from orchestrator.cli.results import print_pretrain
from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.comparison import ObjectiveEntry, TrialCost
from orchestrator.evaluation.results import ProbeResult
from orchestrator.evaluation.verdict import find_verdict
from orchestrator.report.contents import Contents
from orchestrator.runs.compare import CompareOutcome
from orchestrator.runs.pretrain import PretrainResult
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import load_cluster, load_job
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plan() -> Plan:
    job = load_job(str(ROOT / "jobs/smoke/synthetic.yaml"))
    assert isinstance(job, PretrainSpec)
    facts = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="pillow 13.0.0"))
    return resolve_plan(job, load_cluster(str(ROOT / "cluster/laptop")), facts)


def summary(plan: Plan, capsys: pytest.CaptureFixture[str], **found: object) -> dict[str, str]:
    result = PretrainResult(
        plan=plan,
        checkpoint_uri="s3://bucket/runs/x/checkpoints/step-00000008",
        run_folder="s3://bucket/runs/x",
        tracking_uri="http://127.0.0.1:5000",
        mlflow_run_id="key",
        **found,  # type: ignore[arg-type]
    )
    print_pretrain(result)
    lines = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): line[12:].strip() for line in lines}


def test_a_finished_run_is_summed_up(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    probe = ProbeResult(
        "scenes-eval", "linear_probe", "shape", "pooled", True, 8, {"accuracy": Estimate(0.5, 0.4, 0.6)}, 0.125
    )
    said = summary(
        plan,
        capsys,
        status="finished",
        step=8,
        samples_per_s=1234.5,
        store_peak_bytes=192 * 2**20,
        evaluation=[probe],
        evaluation_ema=[probe],
    )
    assert said["run"] == "smoke-synthetic: finished"
    assert said["steps"] == "8 of 8"
    assert said["samples/s"] == "1,234"
    assert said["object store"] == "192 MiB in use at most"
    assert said["checkpoint"] == "s3://bucket/runs/x/checkpoints/step-00000008"
    assert said["run folder"] == "s3://bucket/runs/x"
    assert said["MLflow"] == "http://127.0.0.1:5000"
    assert {"trained weig", "averaged wei", "scenes-eval"} <= set(said)


def test_a_stopped_run_says_where_it_stopped(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    said = summary(plan, capsys, status="stopped", step=3)
    assert (said["run"], said["steps"]) == ("smoke-synthetic: stopped", "3 of 8")
    assert said["samples/s"] == "nothing was trained"


def test_a_comparison_s_costs_are_those_of_replicates_and_their_cooldowns(capsys: pytest.CaptureFixture[str]) -> None:
    costs = {"verdict": TrialCost(step_s=4000.0, flops=2e15), "cooldown": TrialCost(step_s=321.0, flops=5e14)}
    costs["search"] = TrialCost(step_s=70000.0, data_wait_s=700.0, evaluation_s=7.0, flops=1e18)
    trials = [trial("clip", 0, 0.5, phase=phase, cost=cost) for phase, cost in costs.items()]
    entry = ObjectiveEntry(label="clip", tuned=True, prepared={"concepts.parquet": 61.5, "other.parquet": 20.0})
    made = comparison({"clip": [0.5]}, trials=tuple(trials), objectives=(entry,))
    outcome = CompareOutcome("finished", made, "/runs/which")
    print_compare(outcome, Contents(made, find_verdict(made, {}), None, ""))
    said = capsys.readouterr().out
    assert "4,321" in said
    assert "2.5e+15" in said
    assert "1 of 1" in said
    assert "70,707" in said
    assert "81.5" in said
