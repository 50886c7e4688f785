"""The compare job, seen from the driver: prepare once, plan, claim, let Tune run the trials, and say what was found."""

import logging
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.env import apply_quiet_env, holder_name, submission_id
from orchestrator.errors import Interrupted, OrchestratorError, RunHeldError
from orchestrator.evaluation.comparison import ComparisonResult
from orchestrator.runs.agenda import Agenda
from orchestrator.runs.baselines import judge_baselines, start_baseline
from orchestrator.runs.champion import register_champion
from orchestrator.runs.code_version import code_tags
from orchestrator.runs.compare_facts import prepare_compare_facts
from orchestrator.runs.compare_folder import (
    COMPARISON_FILE,
    claim_comparison,
    load_calibration,
    load_comparison,
    save_calibration,
)
from orchestrator.runs.comparison import Comparison
from orchestrator.runs.comparison_record import ComparisonRecord, start_result
from orchestrator.runs.folder import tracking_folder
from orchestrator.runs.inputs import record_inputs
from orchestrator.runs.interrupts import StopRequest, stop_on_signals
from orchestrator.runs.live import LivePost, LiveRecord
from orchestrator.runs.live_preparation import live_preparation
from orchestrator.runs.pretrain import check_reaches_ray, lease_patience_s
from orchestrator.runs.progress import OnProgress
from orchestrator.runs.target import comparison_target
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_plan import ComparePlan
from orchestrator.spec.load import join_uri
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare
from orchestrator.spec.resolve_workers import resolve_judges
from orchestrator.storage.lease import acquire_lease
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.metrics import comparison_mean
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.mlflow.runs import check_tracking
from orchestrator.tracking.prometheus import serve_metrics
from orchestrator.tracking.tracker import RunStatus, Tracker, flat_params

logger = logging.getLogger(__name__)

_RECORD_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class CompareOutcome:
    """How a compare job ended, and what it found so far."""

    status: Literal["finished", "stopped", "failed"]
    """``failed``: all trials have ended, at least one of them by an error."""
    result: ComparisonResult
    folder: str


def run_compare(spec: CompareSpec, cluster: ClusterSpec, *, on_progress: OnProgress | None = None) -> CompareOutcome:
    """Run a comparison to its end, or to the user's; what an earlier start finished is not run again.

    Raises:
        OrchestratorError: what was wrong with the input. What ends one trial stands in the result.
    """
    apply_quiet_env()
    check_reaches_ray(cluster)
    store = open_store(join_uri(cluster.storage.runs, spec.name), cluster.storage.s3)
    with live_preparation(spec.name, cluster, on_progress) as show:
        prepared = prepare_compare_facts(spec, cluster, show)
        baselines = [start_baseline(name, cluster) for name in spec.baselines]
        uncalibrated = resolve_compare(spec, cluster, prepared.facts)  # what is wrong is said before anything is held
        check_tracking(uncalibrated.tracking.uri, uncalibrated.tracking.experiment)
    with (
        stop_on_signals() as stop,
        acquire_lease(store, holder_name(), patience_s=lease_patience_s(cluster)) as lease,
        serve_metrics(spec.name, cluster.tracking.metrics_address) as on_metrics,
    ):
        facts = _calibrated(spec, cluster, store, prepared.facts, uncalibrated, stop)
        plan = resolve_compare(spec, cluster, facts)
        key = claim_comparison(store, plan)
        started = start_result(plan, cluster.storage.runs, prepared.prepared, load_comparison(store), baselines)
        record = ComparisonRecord(store, started)
        tracker = open_tracker(
            comparison_target(plan, key), tracking_folder(plan.run_uri, key), "driver", owns_run=True
        )
        agenda = Agenda(plan, record)
        comparison = Comparison(spec, plan, cluster, facts, key, record, agenda, stop, lease, on_progress, on_metrics)
        try:
            return _run(comparison, store, tracker)
        finally:
            tracker.close()


def _calibrated(
    spec: CompareSpec, cluster: ClusterSpec, store: Store, facts: CompareFacts, plan: ComparePlan, stop: StopRequest
) -> CompareFacts:
    """The facts with the seconds of a step, where the budget needs them: measured once, at the first start.

    Args:
        plan: of steps that stand in.
    """
    if not spec.budget.seconds:
        return facts
    seconds = load_calibration(store, plan.identities)
    if not seconds:
        from orchestrator.runs.calibration import calibrate
        from orchestrator.runs.session import ray_session

        with ray_session(cluster, next(iter(facts.by_label.values())).machine):
            stop.listen()
            seconds = calibrate(spec, cluster, plan.share, facts.by_label, stop)
        save_calibration(store, plan.identities, seconds)
    return replace(facts, seconds_per_step=seconds)


def _run(work: Comparison, store: Store, tracker: Tracker) -> CompareOutcome:
    plan = work.plan
    tracker.log_text("plan.json", plan.model_dump_json(indent=2))
    tracker.log_params(flat_params(plan.model_dump(mode="json", exclude={"trials", "identities", "tracking"})))
    tracker.set_tags(code_tags())
    _record_inputs(work, tracker)
    end = _End(tracker)
    with LivePost(store, work.stop, lambda: _live_record(work, end), places={}, num_ranks=0):
        try:
            _train(work, tracker)
            _judge_baselines(work)
        except Interrupted as error:
            end.say(RunStatus.KILLED, str(error))
            raise
        except OrchestratorError as error:
            end.say(RunStatus.FAILED, str(error))
            raise
        return _conclude(work, tracker, end)


def _record_inputs(work: Comparison, tracker: Tracker) -> None:
    """What its runs read; objectives may select other samples of the same shards."""
    storage, evaluation = work.cluster.storage, work.spec.run.evaluation
    every = list(work.facts.by_label.values())
    train = {(one.uri, one.selection): one for facts in every for one in facts.train}
    uris = [join_uri(storage.data, name) for name in evaluation.sets]
    record_inputs(tracker, train.values(), every[0].heldout, evaluation, uris, storage.s3)


def _conclude(work: Comparison, tracker: Tracker, end: "_End") -> CompareOutcome:
    plan, record = work.plan, work.record
    if record.result.mlflow_run_id is None:
        record.record_run(tracker.run_id())  # the server may have come back
    tracker.log_metrics(_means(record.result), step=sum(trial.status == "finished" for trial in record.result.trials))
    tracker.log_text(COMPARISON_FILE, record.result.model_dump_json(indent=1))
    outcome = CompareOutcome(_status(work), record.result, plan.run_uri)
    status = {"finished": RunStatus.FINISHED, "stopped": RunStatus.KILLED, "failed": RunStatus.FAILED}
    end.say(status[outcome.status], work.stop.reason)
    if outcome.status != "stopped":
        register_champion(outcome.result, work.cluster.storage.s3)
    return outcome


class _End:
    """How a comparison ended, for its record and for those who look from elsewhere."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.status, self.reason = RunStatus.RUNNING, ""

    def say(self, status: RunStatus, reason: str) -> None:
        self.status, self.reason = status, reason
        self.tracker.finish(status, reason)


def _live_record(work: Comparison, end: _End) -> LiveRecord:
    trials = work.record.result.trials
    return LiveRecord(
        run=work.plan.name,
        submission=submission_id(),
        status=end.status,
        step=sum(trial.status in ("finished", "stopped", "failed") for trial in trials),
        steps=len(trials),
        global_size=0,
        samples_per_s=None,
        checkpoint_uri="",
        tracking_uri=work.plan.tracking.uri,
        mlflow_run_id=end.tracker.run_id(),
        written_at=time.time(),
        reason=end.reason,
        unit="trials",
    )


def _train(work: Comparison, tracker: Tracker) -> None:
    if not len(work.agenda):
        logger.info("comparison '%s' is finished; nothing to train", work.plan.name)
        return

    from orchestrator.runs.session import ray_session  # Ray is only imported once there is work for it
    from orchestrator.runs.trials import TrialRunner
    from orchestrator.runs.tuning import run_tuning

    with ray_session(work.cluster, next(iter(work.facts.by_label.values())).machine):
        work.stop.listen()
        work.record.record_run(tracker.run_id(_RECORD_TIMEOUT_S))  # the runs' records are made below this one
        with closing(TrialRunner(work)) as runner:
            run_tuning(work, runner)
    if work.lease.lost:
        raise RunHeldError("the lease on this comparison went to another holder while it ran; it was stopped here")


def _judge_baselines(work: Comparison) -> None:
    if not work.spec.baselines:
        return

    from orchestrator.runs.worker_judge import WorkerJudge

    machine = next(iter(work.facts.by_label.values())).machine
    workers = resolve_judges(work.spec.run.workers, work.cluster, machine)
    judge = WorkerJudge(work.cluster, machine, workers, work.stop.raise_if_asked)
    judge_baselines(work.spec, work.cluster, work.facts.vocabulary, work.record, work.stop, judge)


def _status(work: Comparison) -> Literal["finished", "stopped", "failed"]:
    result = work.record.result
    statuses = {trial.status for trial in (*result.trials, *result.baselines)}
    if statuses & {"waiting", "running"}:
        return "stopped"
    return "failed" if "failed" in statuses else "finished"


def _means(result: ComparisonResult) -> dict[str, float]:
    """The primary metric's mean over the replicates of each objective that has any."""
    means = {}
    for entry in result.objectives:
        scores = result.primary_scores(entry.label)
        if scores:
            means[comparison_mean(entry.label)] = sum(scores) / len(scores)
    return means
