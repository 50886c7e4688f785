"""How the end of a trial, and of a comparison, is kept, without Ray: what trains and what speaks to Tune stand in."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from comparisons import ASKED, COMPARE_JOB
from orchestrator.errors import Interrupted, WorkerLostError
from orchestrator.runs import trials
from orchestrator.runs.agenda import Agenda
from orchestrator.runs.compare import _conclude, _End
from orchestrator.runs.comparison import Comparison
from orchestrator.runs.comparison_record import ComparisonRecord, start_result
from orchestrator.runs.interrupts import StopRequest
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.facts import Facts, MachineFacts, TokenizerFacts
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare
from orchestrator.storage.lease import acquire_lease
from orchestrator.storage.store import open_store
from orchestrator.tracking.null import NullTracker

TOKENIZER = TokenizerFacts(uri="t", digest="t", vocabulary_size=300, begin_id=0, end_id=1, pad_id=2)
RUN = "which--clip-r0"


@pytest.fixture
def comparison(tmp_path: Path) -> Iterator[Comparison]:
    place = {"data": tmp_path.as_uri(), "runs": tmp_path.as_uri()}
    cluster = ClusterSpec.model_validate(
        {"name": "here", "workers": {"count": 1, "accelerator": "cpu"}, "storage": place}
    )
    spec = CompareSpec.model_validate(COMPARE_JOB)
    of_one = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="d"), tokenizer=TOKENIZER)
    facts = CompareFacts({"clip": of_one, "siglip": of_one}, ASKED)
    plan = resolve_compare(spec, cluster, facts)
    store = open_store(plan.run_uri)
    record = ComparisonRecord(store, start_result(plan, cluster.storage.runs, {"clip": {}, "siglip": {}}, None))
    with acquire_lease(store, "here:1") as lease:
        yield Comparison(
            spec, plan, cluster, facts, "key", record, Agenda(plan, record), StopRequest(), lease, None, None
        )


@pytest.mark.parametrize(
    ("asks", "error", "status"),
    [
        ("everybody", Interrupted("SIGINT, while no worker had started"), "waiting"),
        ("the scheduler", Interrupted("asha stopped it, while no worker had started"), "stopped"),
        ("nobody", WorkerLostError("gone"), "failed"),
    ],
)
def test_a_trial_that_waits_for_room_is_not_failed_by_a_stop(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, asks: str, error: Exception, status: str
) -> None:
    def run_plan(*args: object, **kwargs: object) -> None:
        if asks == "everybody":
            comparison.stop.ask("SIGINT")
        raise error

    board = SimpleNamespace(put=SimpleNamespace(remote=lambda *args: None))
    actor = SimpleNamespace(options=lambda **kwargs: SimpleNamespace(remote=lambda: board))
    place = SimpleNamespace(get_node_id=lambda: "0" * 56)
    monkeypatch.setattr(trials, "ray", SimpleNamespace(remote=lambda of: actor, get_runtime_context=lambda: place))
    monkeypatch.setattr(trials, "run_plan", run_plan)
    runner = trials.TrialRunner(comparison)
    runner.start(RUN)
    runner.join()
    ended = comparison.record.trial(RUN)
    assert (ended.status, ended.reason) == (status, str(error))


class CameBack(NullTracker):
    """Its server was away at the start."""

    def run_id(self, timeout_s: float = 0.0) -> str | None:
        return "abc"


def test_a_comparison_s_own_record_is_known_at_its_end_if_not_at_its_start(comparison: Comparison) -> None:
    assert comparison.record.result.mlflow_run_id is None
    tracker = CameBack()
    outcome = _conclude(comparison, tracker, _End(tracker))
    assert (outcome.status, outcome.result.mlflow_run_id) == ("stopped", "abc")
