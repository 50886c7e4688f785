"""A comparison's own parts, without Ray: what may start next, what is kept of each trial, whose folder it is."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comparisons import COMPARE_JOB
from orchestrator.errors import RunConflictError, WorkError
from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.comparison import ComparisonResult, TrialCost
from orchestrator.evaluation.results import EMBEDDING, POOLED, ProbeResult
from orchestrator.runs.agenda import Agenda
from orchestrator.runs.compare_folder import claim_comparison, load_calibration, load_comparison, save_calibration
from orchestrator.runs.comparison_record import ComparisonRecord, TrialMeter, scores_of, start_result
from orchestrator.runs.proposals import Proposals
from orchestrator.runs.recorder import Recorder
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_plan import ComparePlan, TrialPlan
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.flops import training_flops
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare, trial_job
from orchestrator.spec.targets import TargetSpec
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking import metrics
from orchestrator.tracking.null import NullTracker
from orchestrator.training.reports import CheckpointReport, EvaluationReport, NoteReport, Report, StepReport

METRIC = "eval/scenes-eval/linear_probe/all/validation_quality"
CLIP, SIGLIP = COMPARE_JOB["objectives"]
SPACE = {"optimizer.learning_rate": {"choice": [1e-3, 1e-4]}}
JOB = {**COMPARE_JOB, "objectives": [{**CLIP, "search": SPACE}, SIGLIP], "search": {"algorithm": "grid"}}
FACTS = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="d"))


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterSpec:
    place = {"data": tmp_path.as_uri(), "runs": tmp_path.as_uri()}
    return ClusterSpec.model_validate({"name": "here", "workers": {"count": 1, "accelerator": "cpu"}, "storage": place})


def plan_of(cluster: ClusterSpec, **change: Any) -> ComparePlan:
    spec = CompareSpec.model_validate({**JOB, **change})
    two = TargetSpec(classes=("cube", "ball"), named_in_captions=True)
    asked = AskedFacts({"scenes-eval": {"shape": two, "all": two}})
    return resolve_compare(spec, cluster, CompareFacts({"clip": FACTS, "siglip": FACTS}, asked))


@pytest.fixture
def plan(cluster: ClusterSpec) -> ComparePlan:
    return plan_of(cluster, primary_metric="eval/scenes-eval/linear_probe/all/accuracy")


@pytest.fixture
def store(plan: ComparePlan) -> Store:
    return open_store(plan.run_uri)


@pytest.fixture
def record(plan: ComparePlan, store: Store, cluster: ClusterSpec) -> ComparisonRecord:
    return ComparisonRecord(store, start(plan, cluster, None))


def start(plan: ComparePlan, cluster: ClusterSpec, before: ComparisonResult | None) -> ComparisonResult:
    return start_result(plan, cluster.storage.runs, {"clip": {"tokenizer.json": 0.5}, "siglip": {}}, before)


def test_replicates_wait_for_their_own_objective_s_search(plan: ComparePlan, record: ComparisonRecord) -> None:
    agenda = Agenda(plan, record)
    taken = [agenda.take() for _ in range(3)]
    assert [trial.run for trial in taken if trial] == ["which--clip-s0", "which--clip-s1", "which--siglip-r0"]
    assert agenda.take() is None
    record.change("which--clip-s0", status="finished", scores={METRIC: 0.4})
    assert agenda.take() is None
    record.change("which--clip-s1", status="failed", reason="diverged")
    last = agenda.take()
    assert last is not None
    assert last.run == "which--clip-r0"
    assert len(agenda) == 0


def test_the_best_finished_trial_is_chosen_and_kept(plan: ComparePlan, record: ComparisonRecord, store: Store) -> None:
    agenda = Agenda(plan, record)
    record.change("which--clip-s0", status="stopped", scores={METRIC: 0.9})  # at an early rung
    record.change("which--clip-s1", status="finished", scores={METRIC: 0.4})
    assert agenda.chosen("clip") == {"optimizer.learning_rate": 1e-4}
    assert agenda.chosen("siglip") == {}
    kept = load_comparison(store)
    assert kept is not None
    assert [entry.chosen for entry in kept.objectives] == [{"optimizer.learning_rate": 1e-4}, {}]
    assert [entry.tuned for entry in kept.objectives] == [True, False]


def test_without_any_score_there_is_no_choice(plan: ComparePlan, record: ComparisonRecord) -> None:
    for run in ("which--clip-s0", "which--clip-s1"):
        record.change(run, status="failed")
    with pytest.raises(WorkError, match="no search trial of objective 'clip' was judged"):
        Agenda(plan, record).chosen("clip")


def test_a_start_keeps_what_ended_and_tries_again_what_did_not(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    record.change("which--clip-s0", status="finished", scores={METRIC: 0.4})
    record.change("which--clip-s1", status="failed", reason="diverged")
    record.change("which--siglip-r0", status="running", step=4)
    again = start(plan, cluster, record.result)
    assert [trial.status for trial in again.trials] == ["finished", "waiting", "waiting", "waiting"]
    assert again.trials[3].step == 4
    Agenda(plan, record).chosen("clip")
    later = start(plan, cluster, record.result)
    assert later.trials[1].status == "failed", "the choice is made: another trial must not change it"
    assert later.objectives[0].chosen == {"optimizer.learning_rate": 1e-3}


def test_what_is_made_for_a_search_setting_is_charged_once(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    for _ in range(2):  # two trials of the setting
        record.charge("clip", {"concepts.parquet": 2.0, "tokenizer.json": 0.5})
    again = start(plan, cluster, record.result)
    assert [entry.prepare_s for entry in again.objectives] == [2.5, 0.0]


def test_a_folder_belongs_to_one_comparison(plan: ComparePlan, store: Store, cluster: ClusterSpec) -> None:
    key = claim_comparison(store, plan)
    assert claim_comparison(store, plan) == key
    with pytest.raises(RunConflictError, match=r"(?s)clip: steps: 8 -> 16.*siglip: steps.*--set name="):
        claim_comparison(store, plan_of(cluster, budget={"steps": 16}))
    with pytest.raises(RunConflictError, match=r"primary_metric: 'eval/scenes-eval/linear_probe/all/accuracy' -> "):
        claim_comparison(store, plan_of(cluster))


def test_a_comparison_of_a_version_that_kept_no_digests_goes_on(plan: ComparePlan, store: Store) -> None:
    claim_comparison(store, plan)
    claim_comparison(store, plan.model_copy(update={"evaluation_digests": {"scenes-eval": "a"}}))
    with pytest.raises(RunConflictError, match="evaluation set scenes-eval: 'a' -> 'b'"):
        claim_comparison(store, plan.model_copy(update={"evaluation_digests": {"scenes-eval": "b"}}))


def test_a_calibration_holds_for_what_was_timed(cluster: ClusterSpec, store: Store) -> None:
    timed = plan_of(cluster, budget={"train_seconds": 60}).identities
    assert load_calibration(store, timed) == {}
    save_calibration(store, timed, {"clip": 0.5, "siglip": 0.25})
    longer = plan_of(cluster, budget={"train_seconds": 90}).identities
    assert load_calibration(store, longer) == {"clip": 0.5, "siglip": 0.25}
    for change in ({"model": {"preset": "vit_tiny_64"}}, {"batch": {"global_size": 64}}):
        other = plan_of(cluster, budget={"train_seconds": 60}, run={**JOB["run"], **change}).identities
        assert load_calibration(store, other) == {}


def test_a_run_s_folder_is_not_taken_for_a_comparison_s(plan: ComparePlan, store: Store, cluster: ClusterSpec) -> None:
    trial = plan.trials[-1]
    run = resolve_plan(trial.job, cluster, FACTS)
    store.write_bytes("plan.json", run.model_dump_json().encode())
    with pytest.raises(RunConflictError, match="is a run"):
        claim_comparison(store, plan)


def probe(target: str, validation: float, named: bool = True, feature: str = POOLED) -> ProbeResult:
    score = Estimate(0.5, 0.4, 0.6)
    details = {"validation_quality": validation}
    return ProbeResult("scenes-eval", "linear_probe", target, feature, named, 3, {"accuracy": score}, details=details)


def test_a_search_sees_validation_rows_only() -> None:
    results = [probe("shape", 0.25), probe("color", 0.75, named=False), probe("shape", 0.99, feature=EMBEDDING)]
    prefix = "eval/scenes-eval/linear_probe"
    assert scores_of(results, "search") == {
        f"{prefix}/shape/validation_quality": 0.25,
        f"{prefix}/color/validation_quality": 0.75,
        f"{prefix}/named/validation_quality": 0.25,
        f"{prefix}/unnamed/validation_quality": 0.75,
        f"{prefix}/all/validation_quality": 0.5,
    }
    verdict = scores_of(results, "verdict")
    assert verdict[f"{prefix}/shape/accuracy/low"] == 0.4
    assert verdict[f"{prefix}/all/mean_accuracy"] == 0.5
    assert not any("validation" in name for name in verdict)


def meter_of(
    record: ComparisonRecord,
    trial: TrialPlan,
    cluster: ClusterSpec,
    trunk: TrialPlan | None = None,
    num_workers: int = 1,
    clock: Callable[[], float] = lambda: 0.0,
    **settings: Any,
) -> TrialMeter:
    """Of a trial's own plan, with what its search chose (``model={...}``)."""
    plan = resolve_plan(PretrainSpec.model_validate({**trial.job.model_dump(), **settings}), cluster, FACTS)
    workers = plan.workers.model_copy(update={"count": num_workers})
    return TrialMeter(record, trial, "raw", plan.model_copy(update={"workers": workers}), trunk, clock)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def steps(done: int, number: int, **values: float) -> StepReport:
    """``number`` steps of 2 s, a quarter of which was waiting."""
    return StepReport(done, {metrics.STEP_S: 2.0, metrics.DATA_WAIT_FRACTION: 0.25, **values}, number)


def test_duplicate_captions_are_averaged_over_steps_and_starts(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    trial = plan.trials_of("siglip", "verdict")[0]
    run = resolve_plan(trial.job, cluster, FACTS)
    for start, share in ((0, 0.1), (4, 0.4)):
        meter = meter_of(record, trial, cluster)
        recorder = Recorder(run, NullTracker(), None, meter.take)
        values = {metrics.DUPLICATE_CAPTION_FRACTION: share}
        recorder.record([steps(start + 1, 1, **values), steps(start + 4, 3, **values), CheckpointReport(4, "at", {})])
    assert record.trial(trial.run).duplicate_caption_fraction == pytest.approx(0.25)
    assert record.trial("which--clip-r0").duplicate_caption_fraction is None


def test_what_a_trial_costs_counts_lost_attempts(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    trial = plan.trials_of("siglip", "verdict")[0]
    run: Plan = resolve_plan(trial.job, cluster, FACTS)
    judged = [probe("shape", 0.0).to_dict()]
    clock = Clock()
    meter = meter_of(record, trial, cluster, num_workers=2, clock=clock)
    recorder = Recorder(run, NullTracker(), None, meter.take)
    recorder.record_attempt(1)
    recorder.record([steps(4, 4), EvaluationReport(4, "raw", judged, 3.0), CheckpointReport(4, "at-4", {})])
    recorder.record([steps(6, 2)])
    recorder.record_attempt(2)  # from the checkpoint at step 4: two steps come again
    recorder.record([steps(8, 4), CheckpointReport(8, "at-8", {})])
    assert not meter.is_judged
    reports: list[Report] = [EvaluationReport(8, "ema", judged, 1.0), EvaluationReport(8, "raw", judged, 3.0)]
    recorder.record(reports)
    assert meter.is_judged
    clock.now_s += 60.0
    meter.keep_wall()
    found = record.trial(trial.run)
    cost = found.cost
    assert (cost.step_s, cost.data_wait_s, cost.device_s, cost.evaluation_s) == (15.0, 5.0, 40.0, 7.0)
    assert (cost.samples, cost.samples_per_s, cost.attempts, cost.wall_s) == (10 * 32, 16.0, 2, 60.0)
    assert cost.flops == pytest.approx(trial.flops / 8 * 10)
    assert [(point.step, point.samples, point.train_s, point.schedule_ended) for point in found.curve] == [
        (4, 128, 8.0, False),
        (8, 256, 20.0, True),
    ]
    assert (found.step, found.checkpoint_uri) == (8, "at-8")
    assert found.scores["eval/scenes-eval/linear_probe/shape/accuracy"] == 0.5


def test_what_a_search_chose_counts_with_its_own_flops(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    """Of a budget in steps or samples, settings may differ in what a sample costs."""
    trial = plan.trials_of("siglip", "verdict")[0]
    fewer = {"preset": "vit_nano_32", "patch_dropout": 0.5}
    meter = meter_of(record, trial, cluster, model=fewer)
    job = PretrainSpec.model_validate({**trial.job.model_dump(), "model": fewer})
    recorder = Recorder(resolve_plan(job, cluster, FACTS), NullTracker(), None, meter.take)
    recorder.record([steps(8, 8)])
    meter.judge(8, [])
    found = record.trial(trial.run)
    assert found.cost.flops == found.curve[-1].flops == training_flops(recorder.plan) * 8 * 32
    assert found.cost.flops < trial.flops


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
def test_a_constant_rate_never_ends_its_schedule(cluster: ClusterSpec, store: Store, kind: str) -> None:
    of_kind = plan_of(cluster, run={**JOB["run"], "schedule": {"kind": kind}})
    record = ComparisonRecord(store, start(of_kind, cluster, None))
    trial = of_kind.trials_of("siglip", "verdict")[0]
    meter = meter_of(record, trial, cluster)
    for step in (4, 8):
        meter.judge(step, [])
    ended = [point.schedule_ended for point in record.trial(trial.run).curve]
    assert ended == [False, kind != "constant"]
    assert meter.is_judged


def test_a_cooldown_waits_for_its_replicate_however_that_ended(cluster: ClusterSpec, store: Store) -> None:
    plan = plan_of(cluster, rungs=[0.5])
    record = ComparisonRecord(store, start(plan, cluster, None))
    for run in ("which--clip-s0", "which--clip-s1"):
        record.change(run, status="finished", scores={METRIC: 0.4})
    agenda = Agenda(plan, record)
    assert [trial.run for trial in (agenda.take(), agenda.take()) if trial] == ["which--clip-r0", "which--siglip-r0"]
    assert agenda.take() is None
    record.change("which--siglip-r0", status="failed")  # past the cooldown's start, or not: looking tells
    freed = agenda.take()
    assert freed is not None
    assert freed.run == "which--siglip-r0-cooldown-4"
    assert agenda.take() is None
    assert record.trial(freed.run).phase == "cooldown"


def test_a_cooldown_costs_its_own_steps_and_its_point_stands_at_the_whole_budget(
    cluster: ClusterSpec, store: Store
) -> None:
    plan = plan_of(cluster, rungs=[0.5], run={**JOB["run"], "schedule": {"kind": "wsd", "decay_fraction": 0.5}})
    record = ComparisonRecord(store, start(plan, cluster, None))
    (trunk,), (trial,) = plan.trials_of("siglip", "verdict"), plan.trials_of("siglip", "cooldown")
    again = TrialCost(step_s=15.0, data_wait_s=5.0, samples=10 * 32, flops=trunk.flops / 8 * 10)
    record.change(trunk.run, cost=again)  # two steps came again
    facts = resolve_plan(trial.job, cluster, FACTS)
    assert (facts.first_step, facts.steps) == (2, 4)
    meter = meter_of(record, trial, cluster, trunk)
    recorder = Recorder(facts, NullTracker(), None, meter.take)
    judged = [probe("shape", 0.0).to_dict()]
    recorder.record([steps(4, 2), CheckpointReport(4, "at-4", {}), EvaluationReport(4, "raw", judged, 3.0)])
    found = record.trial(trial.run)
    assert (found.cost.samples, found.cost.flops) == (2 * 32, pytest.approx(trial.flops))
    (point,) = found.curve
    assert (point.step, point.samples, point.train_s, point.schedule_ended) == (4, 128, 2 * 2.0 + 4.0, True)
    assert point.flops == pytest.approx(trunk.flops / 2)
    assert found.scores["eval/scenes-eval/linear_probe/shape/accuracy"] == 0.5
    assert record.result.cooldowns_of(record.trial(trunk.run)) == (found,)
    assert record.result.primary_scores("siglip") == []


def test_a_later_start_adds_to_what_an_earlier_one_cost(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    trial = plan.trials_of("siglip", "verdict")[0]
    for wall_s in (10.0, 20.0):
        clock = Clock()
        meter = meter_of(record, trial, cluster, clock=clock)
        recorder = Recorder(resolve_plan(trial.job, cluster, FACTS), NullTracker(), None, meter.take)
        recorder.record_attempt(1)
        recorder.record([steps(4, 4)])
        clock.now_s += wall_s
        recorder.record([CheckpointReport(4, "at-4", {})])  # the last that it hears of: then it is killed
    cost = record.trial(trial.run).cost
    assert (cost.attempts, cost.wall_s, cost.step_s, cost.samples) == (2, 30.0, 12.0, 256)


def test_steps_that_a_killed_driver_did_not_record_are_counted(
    plan: ComparePlan, record: ComparisonRecord, cluster: ClusterSpec
) -> None:
    trial = plan.trials_of("siglip", "verdict")[0]
    recorder = Recorder(resolve_plan(trial.job, cluster, FACTS), NullTracker(), None, None)
    recorder.record_attempt(1)
    meter_of(record, trial, cluster).take(recorder, NoteReport("started"))  # then it is killed
    assert record.trial(trial.run).cost.attempts == 1
    meter = meter_of(record, trial, cluster)
    for report in (steps(6, 2), steps(8, 2)):  # from a checkpoint at step 4 that the first driver never heard of
        meter.take(recorder, report)
    meter.keep_wall()
    cost = record.trial(trial.run).cost
    assert (cost.samples, cost.step_s + cost.data_wait_s, cost.attempts) == (8 * 32, 16.0, 2)
    assert cost.flops == pytest.approx(trial.flops)


def test_a_trial_counts_the_samples_of_steps_that_change_their_size(cluster: ClusterSpec, store: Store) -> None:
    phases = [{"until_fraction": 0.5, "image_sizes": [64], "global_sizes": [96]}]
    model = {**JOB["run"]["model"], "resolutions": phases}
    changing = plan_of(cluster, run={**JOB["run"], "model": model})
    record = ComparisonRecord(store, start(changing, cluster, None))
    trial = changing.trials_of("siglip", "verdict")[0]
    sizes = [trial.batches.size_at(step) for step in range(8)]
    assert sizes == [96, 96, 32, 32, 32, 32, 32, 32]
    assert trial.samples == 384
    meter = meter_of(record, trial, cluster)
    recorder = Recorder(resolve_plan(trial.job, cluster, FACTS), NullTracker(), None, None)
    for report in (steps(4, 1), steps(8, 4)):  # the first three were never recorded
        meter.take(recorder, report)
    meter.judge(4, [])
    found = record.trial(trial.run)
    assert (found.cost.samples, found.cost.step_s + found.cost.data_wait_s) == (384, 16.0)
    assert found.cost.flops == pytest.approx(trial.flops)
    assert [(point.step, point.samples) for point in found.curve] == [(4, 256)]
    assert found.curve[0].flops == pytest.approx(trial.flops * 256 / 384)


def test_optuna_proposes_from_what_earlier_trials_found(cluster: ClusterSpec, tmp_path: Path) -> None:
    objectives = [
        {
            "label": "clip",
            "objective": {"name": "clip"},
            "search": {
                "optimizer.learning_rate": {"log_uniform": [1e-5, 1e-1]},
                "optimizer.betas": {"choice": [[0.9, 0.98], [0.9, 0.999]]},
            },
        },
        JOB["objectives"][1],
    ]
    plan = plan_of(
        cluster,
        objectives=objectives,
        search={"algorithm": "optuna", "trials": 40},
        primary_metric="eval/scenes-eval/linear_probe/all/accuracy",
    )
    record = ComparisonRecord(open_store(str(tmp_path)), start(plan, cluster, None))
    trials = plan.trials_of("clip", "search")
    for part in (trials[:20], trials[20:]):
        proposals = Proposals(plan, record)  # the second half is a later start
        for trial in part:
            proposals.propose(trial)
            rate = record.trial(trial.run).settings["optimizer.learning_rate"]
            score = 1 - abs(math.log10(rate) + 3) / 2  # the best is 1e-3
            record.change(trial.run, scores={METRIC: score} if trial is not part[3] else {}, status="finished")
            proposals.tell(trial)
    rates = [record.trial(trial.run).settings["optimizer.learning_rate"] for trial in trials]
    assert len(set(rates)) == len(rates)
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    errors = [abs(math.log10(rate) + 3) for rate in rates]
    assert sum(errors[20:]) < 0.75 * sum(errors[:20]), "later ones come nearer"
    chosen = Agenda(plan, record).chosen("clip")
    assert chosen["optimizer.betas"] in ((0.9, 0.98), [0.9, 0.98], (0.9, 0.999), [0.9, 0.999])
    spec = CompareSpec.model_validate(
        {**JOB, "objectives": objectives, "search": {"algorithm": "optuna", "trials": 40}}
    )
    job = trial_job(spec, plan.trials_of("clip", "verdict")[0], chosen)
    assert job.optimizer.learning_rate == chosen["optimizer.learning_rate"]


def test_a_proposal_that_a_stop_interrupted_is_told_to_the_study_of_a_later_start(
    cluster: ClusterSpec, tmp_path: Path
) -> None:
    plan = plan_of(
        cluster,
        objectives=[
            {**JOB["objectives"][0], "search": {"optimizer.learning_rate": {"log_uniform": [1e-5, 1e-1]}}},
            JOB["objectives"][1],
        ],
        search={"algorithm": "optuna", "trials": 5},
        primary_metric="eval/scenes-eval/linear_probe/all/accuracy",
    )
    record = ComparisonRecord(open_store(str(tmp_path)), start(plan, cluster, None))
    first, second, third, fourth, fifth = plan.trials_of("clip", "search")
    proposals = Proposals(plan, record)
    for trial in (first, second):
        proposals.propose(trial)
    record.change(first.run, status="running")
    record.change(second.run, status="running", scores={METRIC: 0.3})  # at a rung
    record = ComparisonRecord(open_store(str(tmp_path)), start(plan, cluster, record.result))
    proposals = Proposals(plan, record)
    for trial in (first, second, third, fourth):  # the third opens the study
        proposals.propose(trial)
        record.change(trial.run, status="running")
    rates = [record.trial(one.run).settings["optimizer.learning_rate"] for one in (first, second, third)]
    assert len(set(rates)) == 3, "a study that goes on proposes anew"
    record.change(first.run, status="finished", scores={METRIC: 0.5})
    record.change(second.run, status="finished", scores={METRIC: 0.7})
    for trial in (first, second, fourth):
        proposals.tell(trial)
    proposals.propose(fifth)
    known = proposals._studies["clip"]._ot_study.trials
    told = {one.params["optimizer.learning_rate"]: one.value for one in known if one.value is not None}
    assert told == {rates[0]: 0.5, rates[1]: 0.7}, "each once, at its end; the fourth ended without a score"


@pytest.mark.parametrize("phase", ["search", "verdict"])
def test_scores_that_are_not_finite_are_left_out_and_said(phase: Any, caplog: pytest.LogCaptureFixture) -> None:
    estimates = {
        "mean_average_precision": Estimate(math.nan, math.nan, math.nan),
        "accuracy": Estimate(0.5, 0.25, 0.75),
    }
    details = {"validation_quality": math.nan}
    found = ProbeResult("s", "linear_probe", "shape", POOLED, True, 3, scores=estimates, details=details)
    with caplog.at_level("WARNING", logger="orchestrator"):
        scores = scores_of([found], phase)
    assert all(math.isfinite(value) for value in scores.values())
    assert ("eval/s/linear_probe/shape/accuracy" in scores) == (phase == "verdict")
    assert "3 scores are not finite and left out, such as eval/s/linear_probe/shape/" in caplog.text
