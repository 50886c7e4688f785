"""What a run says it has spent, over starts and branches."""

import pytest

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts, TokenizerFacts
from orchestrator.spec.flops import training_flops
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.tracking import metrics
from orchestrator.training.spent import Spent


@pytest.fixture(scope="module")
def plan() -> Plan:
    job = PretrainSpec.model_validate(
        {
            "kind": "pretrain",
            "name": "spent",
            "data": {"kind": "synthetic"},
            "model": {"preset": "vit_nano_32"},
            "objective": {"name": "clip"},
            "batch": {"global_size": 8},
            "budget": {"steps": 10},
            "optimizer": {"learning_rate": 1e-3},
        }
    )
    place = {"data": "file:///d", "runs": "file:///r"}
    cluster = ClusterSpec.model_validate({"name": "n", "workers": {"count": 1, "accelerator": "cpu"}, "storage": place})
    tokenizer = TokenizerFacts(uri="t", digest="t", vocabulary_size=300, begin_id=0, end_id=1, pad_id=2)
    facts = Facts(machine=MachineFacts(num_cores=1, num_cpus=2, decoder="d"), tokenizer=tokenizer)
    return resolve_plan(job, cluster, facts)


def test_seconds_go_on_from_a_checkpoint_and_all_else_follows_from_the_step(plan: Plan) -> None:
    spent = Spent(plan)
    spent.add(2.0)
    spent.add(3.0)
    state = spent.state(4)
    assert state["samples_seen"] == 32
    spent.add(100.0)  # lost with its attempt
    again = Spent(plan)
    again.restore(state)
    again.add(1.0)
    assert again.metrics(6) == {
        metrics.STEPS: 6.0,
        metrics.SAMPLES_SEEN: 48.0,
        metrics.SECONDS: 6.0,
        metrics.FLOPS: pytest.approx(48 * training_flops(plan)),
    }
    again.restore({"samples_seen": 8})  # of a version that did not say
    assert again.metrics(1)[metrics.SECONDS] == 0.0
