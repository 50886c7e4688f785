"""Which trials Ray Tune's schedulers compare with one another; no Ray is started."""

import pickle
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.runs.tuning import build_schedulers, relay_resources
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare

SPACE = {"optimizer.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
JOB: dict[str, Any] = {
    "kind": "compare",
    "name": "which",
    "mode": "controlled",
    "run": {
        "data": {"kind": "synthetic"},
        "model": {"preset": "vit_nano_32"},
        "batch": {"global_size": 10},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": {"sets": ["s"]},
    },
    "objectives": [
        {"label": "clip", "objective": {"name": "clip"}, "search": SPACE},
        {"label": "siglip", "objective": {"name": "siglip", "towers": "clip"}, "search": SPACE},
    ],
    "budget": {"steps": 8},
    "primary_metric": "eval/s/linear_probe/shape/accuracy",
}
CLUSTER = {
    "name": "here",
    "workers": {"count": 1, "accelerator": "cpu"},
    "storage": {"data": "file:///d", "runs": "file:///r"},
}


class TuneTrial:
    """What a scheduler reads of a trial of Tune's."""

    def __init__(self, objective: str, number: int, phase: str = "search") -> None:
        self.trial_id = f"{objective}-{number}-{phase}"
        self.config = {"objective": objective, "phase": phase}
        self.stub = False


def scheduler_of(name: str) -> TrialScheduler:
    spec = CompareSpec.model_validate({**JOB, "search": {"trials": 4, "scheduler": name, "first_rung": 0.25}})
    facts = Facts(machine=MachineFacts(num_cores=1, num_cpus=2, decoder="d"))
    known = CompareFacts({"clip": facts, "siglip": facts}, {"s": ("shape",)})
    return build_schedulers(resolve_compare(spec, ClusterSpec.model_validate(CLUSTER), known))


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


def test_what_ends_by_itself_is_not_stopped() -> None:
    scheduler = scheduler_of("asha")
    trial = TuneTrial("clip", 0)
    scheduler.on_trial_add(None, trial)
    assert judged(scheduler, trial, 80, 0.5) == TrialScheduler.CONTINUE


def test_schedulers_pickle_as_tune_wants_them() -> None:
    assert pickle.loads(pickle.dumps(scheduler_of("asha"))).debug_string()


def test_a_relay_holds_room_on_a_node_on_demand_where_the_cluster_has_one() -> None:
    launch = {"kind": "kuberay", "namespace": "n", "image": "i:1", "drivers": {"slots": 2}}
    group = {"name": "gpu", "nodes": 1, "workers": 1, "cpus": 4, "memory": "16Gi"}
    made = ClusterSpec.model_validate({**CLUSTER, "launch": {**launch, "groups": [group]}})
    assert relay_resources(made) == {"driver": 1}
    assert "driver" not in relay_resources(ClusterSpec.model_validate(CLUSTER))
