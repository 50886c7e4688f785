"""A run that starts from another's checkpoint: what is looked at first, and what is refused."""

import logging
from typing import Any

import pytest
import torch

from orchestrator.errors import ModelSourceError, PlanError, RunConflictError, RunNotFoundError
from orchestrator.runs.folder import claim_run
from orchestrator.runs.start import check_start
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.store import open_store
from orchestrator.training.made_checkpoint import write_checkpoint

WSD = {"kind": "wsd", "decay_fraction": 0.2}
JOB: dict[str, Any] = {
    "kind": "pretrain",
    "objective": {"name": "clip"},
    "data": {"kind": "synthetic"},
    "model": {"preset": "vit_nano_32"},
    "batch": {"global_size": 8},
    "optimizer": {"learning_rate": 1e-3},
}


def plan_of(cluster: ClusterSpec, name: str, steps: int, **job: Any) -> Plan:
    values = {**JOB, "schedule": WSD, "budget": {"steps": steps}, "name": name, **job}
    facts = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="d"))
    return resolve_plan(PretrainSpec.model_validate(values), cluster, facts)


def leave_run(plan: Plan, step: int) -> None:
    """A folder as a run leaves it, with one checkpoint."""
    store = open_store(plan.run_uri)
    claim_run(store, plan)
    write_checkpoint(store, step, {}, {"a": [1]}, [("a", torch.zeros(1))])


def test_a_cooldown_goes_on_from_the_constant_rate(cluster: ClusterSpec, caplog: pytest.LogCaptureFixture) -> None:
    leave_run(plan_of(cluster, "trunk", 100), 40)
    with caplog.at_level(logging.WARNING):
        check_start(plan_of(cluster, "branch", 50, start={"run": "trunk", "step": 40}))
        assert not caplog.records
        check_start(plan_of(cluster, "late", 45, start={"run": "trunk", "step": 40}))
    assert "the learning rate jumps" in caplog.text
    assert "has 1 of its peak, this job's schedule has 0.6" in caplog.text


def test_a_run_of_another_length_is_refused_with_what_goes_on_from_it(cluster: ClusterSpec) -> None:
    leave_run(plan_of(cluster, "ended", 100), 100)
    store = open_store(f"{cluster.storage.runs}/ended")
    way_on = "another name and start: {run: ended, step: 100}"
    with pytest.raises(RunConflictError, match="steps: 100 -> 200") as error:
        claim_run(store, plan_of(cluster, "ended", 200))
    assert way_on in str(error.value)
    check_start(plan_of(cluster, "longer", 200, start={"run": "ended", "step": 100}))
    for other in (plan_of(cluster, "ended", 50), plan_of(cluster, "ended", 200, seed={"data": 3})):
        with pytest.raises(RunConflictError) as error:
            claim_run(store, other)
        assert way_on not in str(error.value), "it would not do"


def test_what_is_not_there_is_said_with_what_would_keep_it(cluster: ClusterSpec) -> None:
    leave_run(plan_of(cluster, "short", 100), 40)
    with pytest.raises(RunNotFoundError, match=r"(?s)runs/nowhere holds no plan\.json.*keep_steps: \[40\]"):
        check_start(plan_of(cluster, "branch", 50, start={"run": "nowhere", "step": 40}))
    with pytest.raises(RunNotFoundError, match=r"of step 30; it has those of steps 40\. .*\[30\]"):
        check_start(plan_of(cluster, "branch", 50, start={"run": "short", "step": 30}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"preset": "vit_tiny_64"}}, "model.preset: 'vit_nano_32' -> 'vit_tiny_64'"),
        ({"batch": {"global_size": 16}}, "batch.global_size: 8 -> 16"),
        ({"seed": {"data": 3}}, "seed: {'data': 0, 'model': 0} -> {'data': 3, 'model': 0}"),
        ({"objective": {"name": "siglip"}}, "objective: "),
        ({"ema": {"decay": 0.9}}, "ema: None -> {'decay': 0.9}"),
    ],
)
def test_what_was_trained_otherwise_is_refused(cluster: ClusterSpec, change: dict[str, Any], said: str) -> None:
    name = f"other-{next(iter(change))}"
    leave_run(plan_of(cluster, name, 100), 40)
    with pytest.raises(PlanError) as error:
        check_start(plan_of(cluster, f"{name}-branch", 50, start={"run": name, "step": 40}, **change))
    assert said in str(error.value)
    assert "was trained otherwise" in str(error.value)


def test_a_branch_that_has_a_checkpoint_needs_its_start_no_more(cluster: ClusterSpec) -> None:
    branch = plan_of(cluster, "begun-branch", 50, start={"run": "gone", "step": 40})
    with pytest.raises(RunNotFoundError, match="gone"):
        check_start(branch)
    leave_run(branch, 45)
    check_start(branch)


def test_a_run_whose_weights_are_taken_is_looked_at_before_workers_start(cluster: ClusterSpec) -> None:
    leave_run(plan_of(cluster, "source", 100), 40)
    check_start(plan_of(cluster, "fits", 50, init={"from": "source"}))
    claim_run(open_store(f"{cluster.storage.runs}/empty"), plan_of(cluster, "empty", 100))
    for init, job, said in (
        ({"from": "sorce"}, {}, r"init\.from .*runs/sorce: no run there"),
        ({"from": "empty"}, {}, r"init\.from .*runs/empty: the run has no complete checkpoint yet"),
        ({"from": "source", "weights": "ema"}, {}, r"holds no average of the weights; set it to raw"),
        ({"from": "source"}, {"model": {"preset": "vit_nano_32", "variant": "openai"}}, r"set model\.variant: clip"),
    ):
        with pytest.raises(ModelSourceError, match=said):
            check_start(plan_of(cluster, "does-not-fit", 50, init=init, **job))
    check_start(plan_of(cluster, "files", 50, init={"from": "/nowhere/here.pt"}))
