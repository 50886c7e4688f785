"""Judge a run's checkpoint again: a job on the cluster's workers, a command in this process, without Ray."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from orchestrator.env import apply_quiet_env
from orchestrator.errors import OrchestratorError, PlanError
from orchestrator.evaluation.predictions import mark_judged, write_predictions
from orchestrator.evaluation.results import ProbeResult
from orchestrator.runs.folder import open_run, tracking_folder
from orchestrator.runs.inputs import evaluation_digests
from orchestrator.runs.live_preparation import live_preparation
from orchestrator.runs.prepare import ensure_evaluation_sets, machine_facts
from orchestrator.runs.pretrain import check_reaches_ray
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.runs.recorder import record_evaluation
from orchestrator.runs.target import run_target
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.job import EvaluateSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve_workers import resolve_judges
from orchestrator.storage.store import Store
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.tracker import RunTarget
from orchestrator.training.checkpoint_folders import CheckpointChoice, StoredCheckpoint, find_checkpoint_of
from orchestrator.training.judge import judge_checkpoint, judged_weights
from orchestrator.training.reports import Weights

logger = logging.getLogger(__name__)

Judge = Callable[[Plan, Store, StoredCheckpoint, Weights], list[ProbeResult]]


def evaluate_run(
    run_uri: str,
    cluster: ClusterSpec,
    *,
    evaluation: EvaluationSpec | None = None,
    weights: Weights = "raw",
    checkpoint: CheckpointChoice = "last",
    is_own: bool = False,
    vocabulary: VocabularyFacts | None = None,
    judge: Judge = judge_checkpoint,
) -> list[ProbeResult]:
    """All probes on all evaluation sets of the run's plan, or of ``evaluation``; recorded in the run.

    Args:
        is_own: the run's own evaluation, which its workers did not get to.
        vocabulary: by which scores are divided, instead of the run's own.
        judge: finds all probes on all evaluation sets of the plan; this process, or workers.

    Raises:
        RunNotFoundError: no such run, or no such complete checkpoint in it.
        PlanError: neither the plan nor ``evaluation`` names an evaluation set.
    """
    apply_quiet_env()
    store, plan, key = open_run(run_uri, cluster.storage.s3)
    plan = with_evaluation(plan, evaluation, cluster)
    if vocabulary is not None:
        plan = plan.model_copy(update={"evaluation_vocabulary": vocabulary})
    stored = find_checkpoint_of(store, checkpoint)
    target, folder = run_target(plan, key), tracking_folder(run_uri, key)
    logger.info("judging %s (%s weights)", stored.record.uri, weights)
    results = judge(plan, store, stored, weights)
    write_predictions(store, stored.record.step, weights, results, "" if is_own else _asked(plan))
    _record(target, folder, plan, stored, results, weights)
    if is_own:
        mark_judged(store, stored.record.step, weights)
    return results


def _record(
    target: RunTarget,
    folder: Path,
    plan: Plan,
    stored: StoredCheckpoint,
    results: Sequence[ProbeResult],
    weights: Weights,
) -> None:
    """Hand the scores to MLflow. What goes wrong is said: hours of judging must not be lost for a record."""
    try:
        digests = evaluation_digests(plan.evaluation, plan.evaluation_uris, plan.s3)
        tracker = open_tracker(target, folder, "evaluate", owns_run=False)
    except (OrchestratorError, OSError) as error:
        logger.warning("the scores of %s are not in MLflow: %s", stored.record.uri, error)
        return
    record_evaluation(tracker, digests, stored.record.uri, stored.record.step, results, weights)
    tracker.close()


def _asked(plan: Plan) -> str:
    """Short name of what is judged, and by what."""
    asked = plan.evaluation.model_dump_json() + " ".join(plan.evaluation_uris)
    return hashlib.sha256(asked.encode()).hexdigest()[:8]


def evaluate_job(
    job: EvaluateSpec, cluster: ClusterSpec, *, on_progress: OnProgress | None = None
) -> dict[Weights, list[ProbeResult]]:
    """What an evaluate job asks for, on the cluster's workers, by the weights that were judged.

    Raises:
        OrchestratorError: as ``evaluate_run`` does; Interrupted: somebody asked to stop.
    """
    apply_quiet_env()
    check_reaches_ray(cluster)
    machine = machine_facts(cluster)
    workers = resolve_judges(job.workers, cluster, machine)
    run_uri = join_uri(cluster.storage.runs, job.run)
    with live_preparation(job.name, cluster, on_progress, is_all=True) as show:
        _, plan, _ = open_run(run_uri, cluster.storage.s3)
        asked = judged_weights(job.evaluation, has_average=plan.ema is not None)
        found: dict[Weights, list[ProbeResult]] = {}

        from orchestrator.runs.session import ray_session  # Ray is only imported once there is work for it
        from orchestrator.runs.worker_judge import WorkerJudge

        with ray_session(cluster, machine):
            for done, weights in enumerate(asked):
                heed = partial(_show_judging, show, job.run, done, len(asked), time.monotonic())
                judge = WorkerJudge(cluster, machine, workers, heed)
                found[weights] = evaluate_run(run_uri, cluster, evaluation=job.evaluation, weights=weights, judge=judge)
        show(Progress(f"judge {job.run}", len(asked), len(asked), "weights"))
    return found


def _show_judging(show: OnProgress, run: str, done: int, total: int, started_s: float) -> None:
    show(Progress(f"judge {run}", done, total, "weights", f"for {time.monotonic() - started_s:,.0f} s"))


def with_evaluation(plan: Plan, evaluation: EvaluationSpec | None, cluster: ClusterSpec) -> Plan:
    """The plan with its evaluation sets, or those of ``evaluation``, ready to be read.

    Raises:
        PlanError: neither names one.
    """
    if evaluation is not None:
        uris = tuple(join_uri(cluster.storage.data, name) for name in evaluation.sets)
        plan = plan.model_copy(update={"evaluation": evaluation, "evaluation_uris": uris})
    if not plan.evaluation.sets:
        raise PlanError(f"run '{plan.name}' names no evaluation set; name some in evaluation.sets of an evaluate job")
    ensure_evaluation_sets(plan.evaluation, plan.evaluation_uris, cluster.storage.s3)
    return plan
