"""Which trials Ray Tune's schedulers compare with one another; no Ray is started."""

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from comparisons import COMPARE_JOB
from orchestrator.errors import Interrupted
from orchestrator.evaluation.comparison import CurvePoint, TrialResult, TrialStatus
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.tuning import build_schedulers, fit_and_join, relay_resources
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare
from orchestrator.spec.targets import TargetSpec

SPACE = {"optimizer.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
JOB: dict[str, Any] = {
    **COMPARE_JOB,
    "run": {**COMPARE_JOB["run"], "batch": {"global_size": 10}, "evaluation": {"sets": ["s"]}},
    "objectives": [{**objective, "search": SPACE} for objective in COMPARE_JOB["objectives"]],
    "primary_metric": "eval/s/linear_probe/shape/accuracy",
}
SEARCHED_BY = "eval/s/linear_probe/shape/validation_quality"
CLUSTER = {
    "name": "here",
    "workers": {"count": 1, "accelerator": "cpu"},
    "storage": {"data": "file:///d", "runs": "file:///r"},
}


class TuneTrial:
    """What a scheduler reads of a trial of Tune's."""

    def __init__(self, objective: str, number: int, phase: str = "search") -> None:
        self.trial_id = f"{objective}-{number}-{phase}"
        self.config = {"run": f"which--{objective}-s{number}", "objective": objective, "phase": phase}
        self.stub = False


def scheduler_of(name: str, before: Sequence[TrialResult] = ()) -> TrialScheduler:
    spec = CompareSpec.model_validate({**JOB, "search": {"trials": 4, "scheduler": name, "first_rung": 0.25}})
    facts = Facts(machine=MachineFacts(num_cores=1, num_cpus=2, decoder="d"))
    asked = AskedFacts({"s": {"shape": TargetSpec(classes=("cube", "ball"), named_in_captions=True)}})
    known = CompareFacts({"clip": facts, "siglip": facts}, asked)
    return build_schedulers(resolve_compare(spec, ClusterSpec.model_validate(CLUSTER), known), before)


def judged(scheduler: TrialScheduler, trial: TuneTrial, samples: int, score: float) -> str:
    return scheduler.on_trial_result(None, trial, {"samples": samples, "score": score, "training_iteration": 1})


@pytest.mark.parametrize("name", ["asha", "median"])
def test_trials_of_one_objective_only_are_compared(name: str) -> None:
    scheduler = scheduler_of(name)
    good = [TuneTrial("clip", number) for number in range(3)]
    bad, other, replicate = TuneTrial("clip", 3), TuneTrial("siglip", 0), TuneTrial("clip", 0, "verdict")
    for trial in (*good, bad, other, replicate):
        scheduler.on_trial_add(None, trial)
    decisions = [judged(scheduler, trial, samples, 0.9) for samples in (20, 40) for trial in good]
    assert set(decisions) == {TrialScheduler.CONTINUE}
    assert judged(scheduler, other, 40, 0.1) == TrialScheduler.CONTINUE
    assert judged(scheduler, replicate, 40, 0.1) == TrialScheduler.CONTINUE
    assert judged(scheduler, bad, 40, 0.1) == TrialScheduler.STOP


def earlier(number: int, status: TrialStatus, *curve: tuple[int, float], objective: str = "clip") -> TrialResult:
    """A search trial of an earlier start."""
    run = f"which--{objective}-s{number}"
    points = [
        CurvePoint(step=samples, samples=samples, train_s=0, flops=0, scores={SEARCHED_BY: score}, schedule_ended=False)
        for samples, score in curve
    ]
    found = {"objective": objective, "phase": "search", "replicate": 0, "run": run, "run_uri": "", "steps": 8}
    return TrialResult(**found, status=status, curve=tuple(points))


@pytest.mark.parametrize("name", ["asha", "median"])
def test_trials_of_earlier_starts_are_what_later_ones_are_measured_against(name: str) -> None:
    good = [earlier(number, "finished", (20, 0.9), (40, 0.9)) for number in range(3)]
    trial = TuneTrial("clip", 3)
    for before, decision in (
        (good, TrialScheduler.STOP),
        ([], TrialScheduler.CONTINUE),
        ([earlier(number, "finished", (20, 0.9), objective="siglip") for number in range(3)], TrialScheduler.CONTINUE),
    ):
        scheduler = scheduler_of(name, before)
        scheduler.on_trial_add(None, trial)
        assert judged(scheduler, trial, 20, 0.1) == decision


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_that_goes_on_keeps_what_it_showed_at_an_earlier_start(name: str) -> None:
    good = [earlier(number, "finished", (20, 0.5), (40, 0.5)) for number in range(2)]
    scheduler = scheduler_of(name, [*good, earlier(2, "waiting", (20, 0.6))])
    goes_on, other = TuneTrial("clip", 2), TuneTrial("clip", 3)
    scheduler.on_trial_add(None, goes_on)
    scheduler.on_trial_add(None, other)
    assert judged(scheduler, other, 20, 0.1) == TrialScheduler.STOP
    assert judged(scheduler, goes_on, 40, 0.6) == TrialScheduler.CONTINUE


def test_what_ends_by_itself_is_not_stopped() -> None:
    scheduler = scheduler_of("asha")
    trial = TuneTrial("clip", 0)
    scheduler.on_trial_add(None, trial)
    assert judged(scheduler, trial, 80, 0.5) == TrialScheduler.CONTINUE


def test_schedulers_pickle_as_tune_wants_them() -> None:
    assert pickle.loads(pickle.dumps(scheduler_of("asha", [earlier(0, "finished", (20, 0.9))]))).debug_string()


class Joined:
    """What of a runner is asked where Tune has ended: whether trials were told to stop before they are waited for."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self.reasons: list[str] = []

    def join(self) -> None:
        self.reasons.append(self._stop.reason)


@pytest.mark.parametrize(
    ("error", "reasons"), [(KeyError("x"), ["Ray Tune ended by KeyError"]), (Interrupted("asked twice"), [])]
)
def test_trials_end_with_tune(error: Exception, reasons: list[str]) -> None:
    def fit() -> None:
        raise error

    stop = StopRequest()
    runner = Joined(stop)
    with pytest.raises(type(error)):
        fit_and_join(fit, runner, stop)
    assert runner.reasons == reasons
    fit_and_join(lambda: None, runner, stop)
    assert len(runner.reasons) == len(reasons) + 1


def test_a_relay_holds_room_on_a_node_on_demand_where_the_cluster_has_one() -> None:
    launch = {"kind": "kuberay", "namespace": "n", "image": "i:1", "drivers": {"slots": 2}}
    group = {"name": "gpu", "nodes": 1, "workers": 1, "cpus": 4, "memory": "16Gi"}
    made = ClusterSpec.model_validate({**CLUSTER, "launch": {**launch, "groups": [group]}})
    assert relay_resources(made) == {"driver": 1}
    assert "driver" not in relay_resources(ClusterSpec.model_validate(CLUSTER))
