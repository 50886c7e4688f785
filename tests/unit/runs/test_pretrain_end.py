"""How a run ends when what ends it is not foreseen, and what the same command then does. No Ray."""

from pathlib import Path

import pytest

from orchestrator.errors import RunHeldError, WorkerLostError
from orchestrator.evaluation.predictions import write_predictions
from orchestrator.runs import pretrain
from orchestrator.runs.attempts import run_attempts
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.live import STOP_FILE, read_live_record
from orchestrator.runs.recorder import Recorder
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import load_job
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.runs import list_runs
from orchestrator.tracking.null import NullTracker
from orchestrator.training.reports import CheckpointReport, EvaluationReport, StepReport

JOB = Path(__file__).parents[3] / "jobs" / "smoke" / "synthetic.yaml"


def plan_of(cluster: ClusterSpec, name: str, *overrides: str) -> Plan:
    job = load_job(str(JOB), [f"name={name}", "workers=1", *overrides])
    assert isinstance(job, PretrainSpec)
    return resolve_plan(job, cluster, Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="none")))


def test_an_error_that_nobody_foresaw_ends_the_run_as_failed(
    cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no free port")

    monkeypatch.setattr(pretrain, "_train", fail)
    plan = plan_of(cluster, "unforeseen")
    with pytest.raises(RuntimeError, match="no free port"):
        pretrain.run_plan(plan, cluster, StopRequest(), pretrain.Onlookers())
    record = read_live_record(open_store(plan.run_uri))
    assert record is not None
    assert (record.status, record.reason) == ("FAILED", "RuntimeError: no free port")
    [found] = [run for run in list_runs(plan.tracking.uri, plan.tracking.experiment) if run.name == "unforeseen"]
    assert found.status == "FAILED"


def test_a_run_is_done_once_its_last_weights_are_judged(cluster: ClusterSpec) -> None:
    plan = plan_of(cluster, "judged")
    store = open_store(plan.run_uri)
    assert pretrain._is_judged(plan, store)  # nothing is asked for
    sets = plan.evaluation.model_copy(update={"sets": ("scenes/eval",), "weights": "both"})
    plan = plan.model_copy(update={"evaluation": sets, "ema": {"decay": 0.9}})
    assert not pretrain._is_judged(plan, store)
    for weights in ("raw", "ema"):  # of workers whose driver was killed before it heard of them
        write_predictions(store, plan.steps, weights, [])
    heard = []
    recorder = Recorder(plan, NullTracker(), None, lambda *_: heard.append(pretrain._is_judged(plan, store)), {}, store)
    for weights in ("raw", "ema"):
        assert not pretrain._is_judged(plan, store)
        recorder.record([EvaluationReport(plan.steps, weights, [], 1.0)])
    assert pretrain._is_judged(plan, store)
    assert heard == [False, False], "said last of all"


def test_a_checkpoint_that_is_only_read_again_refills_no_attempts(
    cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that die while they judge the last weights are not started for ever."""
    plan = plan_of(cluster, "judging")
    starts = []

    class Dying:
        result, failure = None, OSError("Connection reset by peer")

        def __init__(self, plan: Plan, number: int) -> None:
            starts.append(number)

        def watch(self, recorder: Recorder, *_: object) -> None:
            recorder.record([CheckpointReport(plan.steps, "file:///last", {})])

    class Quiet:
        def __getattr__(self, name: str) -> object:
            return lambda *_: None

    monkeypatch.setattr("orchestrator.runs.attempts._Attempt", Dying)
    monkeypatch.setattr("orchestrator.runs.attempts.judge_failure", lambda error: _Lost)
    recorder = Recorder(plan, Quiet(), None, None)
    with pytest.raises(WorkerLostError, match="4 attempts without a new checkpoint"):
        run_attempts(plan, recorder, StopRequest(), Quiet())
    assert starts == [1, 2, 3, 4]


def test_a_checkpoint_that_is_told_late_sets_no_run_back(cluster: ClusterSpec) -> None:
    plan = plan_of(cluster, "late")
    recorder = Recorder(plan, NullTracker(), None, None)
    recorder.record([StepReport(7, {}), CheckpointReport(4, "file:///c4", {})])
    assert (recorder.step, recorder.checkpoint_step) == (7, 4)
    recorder.record_attempt(2)
    assert recorder.step == 4, "what came behind the checkpoint is done again"


def test_who_lost_the_lease_writes_nothing_of_its_end(cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(cluster, "taken-over")
    store = open_store(plan.run_uri)

    def lose(*_: object) -> None:
        store.write_bytes(STOP_FILE, b"{}")
        raise RunHeldError("the lease on this run went to another holder")

    monkeypatch.setattr(pretrain, "_train", lose)
    with pytest.raises(RunHeldError):
        pretrain.run_plan(plan, cluster, StopRequest(), pretrain.Onlookers())
    assert store.stat(STOP_FILE) is not None, "the request is for the other holder"
    [found] = [run for run in list_runs(plan.tracking.uri, plan.tracking.experiment) if run.name == "taken-over"]
    assert found.status == "RUNNING"


class _Lost:
    retry = True
    error = WorkerLostError("gone")
