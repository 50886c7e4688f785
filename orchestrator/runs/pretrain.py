"""The pretrain job, seen from the driver: prepare, plan, claim the run, train, and say how it ended."""

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from orchestrator.env import apply_quiet_env, holder_name, submission_id
from orchestrator.errors import Interrupted, OrchestratorError, PlanError, RunHeldError
from orchestrator.evaluation.results import ProbeResult
from orchestrator.runs.code_version import code_tags
from orchestrator.runs.folder import claim_run, tracking_folder
from orchestrator.runs.inputs import record_inputs
from orchestrator.runs.interrupts import StopRequest, stop_on_signals
from orchestrator.runs.live import LivePost, LiveRecord
from orchestrator.runs.live_preparation import live_preparation
from orchestrator.runs.prepare import prepare_facts
from orchestrator.runs.progress import OnProgress
from orchestrator.runs.recorder import OnReport, Recorder
from orchestrator.runs.start import check_start
from orchestrator.runs.target import run_target
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.lease import LOST_HOLDER_S, Lease, acquire_lease
from orchestrator.storage.store import Store, check_store, open_store
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.mlflow.runs import check_tracking
from orchestrator.tracking.null import NullTracker
from orchestrator.tracking.prometheus import OnMetrics, serve_metrics
from orchestrator.tracking.tracker import RunStatus, Tracker, flat_params
from orchestrator.training.checkpoint_folders import find_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainResult:
    """How a pretrain job ended, and where everything is."""

    plan: Plan
    status: Literal["finished", "stopped"]
    step: int
    checkpoint_uri: str
    run_folder: str
    tracking_uri: str
    mlflow_run_id: str | None
    samples_per_s: float | None = None
    """Over the last logged steps; ``None``: there was nothing left to train."""
    store_peak_bytes: int = 0
    """Most that was in use in Ray's object stores, over all nodes."""
    evaluation: list[ProbeResult] = field(default_factory=list)
    evaluation_ema: list[ProbeResult] = field(default_factory=list)


@dataclass(frozen=True)
class Onlookers:
    """Who is told of a run while it goes on."""

    on_progress: OnProgress | None = None
    on_metrics: OnMetrics | None = None
    on_report: OnReport | None = None


def run_pretrain(job: PretrainSpec, cluster: ClusterSpec, *, on_progress: OnProgress | None = None) -> PretrainResult:
    """Run a pretrain job to its end, or to the user's.

    Raises:
        OrchestratorError: what was wrong with the input, or what ended the work; the run is closed in MLflow.
    """
    apply_quiet_env()
    check_reaches_ray(cluster)
    with live_preparation(job.name, cluster, on_progress) as show:
        plan = resolve_plan(job, cluster, prepare_facts(job, cluster, show))
        check_tracking(plan.tracking.uri, plan.tracking.experiment)
    with (
        stop_on_signals() as stop,
        serve_metrics(plan.name, cluster.tracking.metrics_address) as on_metrics,
    ):
        onlookers = Onlookers(on_progress, on_metrics)
        return run_plan(plan, cluster, stop, onlookers, patience_s=lease_patience_s(cluster))


def run_plan(
    plan: Plan,
    cluster: ClusterSpec,
    stop: StopRequest,
    onlookers: Onlookers,
    *,
    parent_key: str | None = None,
    patience_s: float = 0.0,
    recorded: bool = True,
) -> PretrainResult:
    """Run a plan to its end, or until ``stop`` is asked. Safe in several threads at once, with a plan each.

    Args:
        parent_key: of the run that this one is recorded below.
        patience_s: how long to wait for the lease of a driver that may be dead.
        recorded: whether MLflow hears of it.

    Raises:
        OrchestratorError: what was wrong with the input, or what ended the work; the run is closed in MLflow.
    """
    store = open_store(plan.run_uri, plan.s3)
    check_store(store, write=True)
    check_start(plan)
    with acquire_lease(store, holder_name(), patience_s=patience_s) as lease:
        key = claim_run(store, plan)
        tracker = _open_tracker(plan, key, parent_key, onlookers) if recorded else NullTracker()
        try:
            return _run(plan, cluster, store, tracker, onlookers, stop, lease)
        finally:
            tracker.close()


def _open_tracker(plan: Plan, key: str, parent_key: str | None, onlookers: Onlookers) -> Tracker:
    return open_tracker(
        run_target(plan, key, parent_key),
        tracking_folder(plan.run_uri, key),
        "driver",
        owns_run=True,
        samples_system=True,
        on_metrics=onlookers.on_metrics,
    )


def lease_patience_s(cluster: ClusterSpec) -> float:
    """A scheduler may start a job again before the lease of the driver that it lost has ended."""
    return LOST_HOLDER_S if cluster.launch is not None else 0.0


def check_reaches_ray(cluster: ClusterSpec) -> None:
    """Raises PlanError for a cluster that is made for each job, seen from outside of it."""
    if cluster.launch is not None and cluster.ray.address is None:
        raise PlanError(
            f"cluster '{cluster.name}' is made for each job ({cluster.launch.kind}) and does not run here; print what "
            f"makes it with: orchestrator render JOB.yaml --cluster FOLDER"
        )


def _run(
    plan: Plan,
    cluster: ClusterSpec,
    store: Store,
    tracker: Tracker,
    onlookers: Onlookers,
    stop: StopRequest,
    lease: Lease,
) -> PretrainResult:
    digests = _record_start(plan, tracker)
    recorder = Recorder(plan, tracker, onlookers.on_progress, onlookers.on_report, digests, store)
    look = partial(_live_record, plan, recorder, tracker)
    with LivePost(store, stop, look, recorder.places, plan.workers.count) as post:
        try:
            status = _train(plan, cluster, store, recorder, stop, lease)
        except Interrupted as error:
            recorder.finish(RunStatus.KILLED, str(error))
            raise
        except RunHeldError:  # the record, too, is the other holder's
            post.leave()
            raise
        except OrchestratorError as error:
            recorder.finish(RunStatus.FAILED, str(error))
            raise
        except BaseException as error:
            recorder.finish(RunStatus.FAILED, f"{type(error).__name__}: {error}")
            raise
        reason = f"{stop.reason} at step {recorder.step}" if status == "stopped" else ""
        recorder.finish(RunStatus.KILLED if status == "stopped" else RunStatus.FINISHED, reason)
    return PretrainResult(
        plan=plan,
        status=status,
        step=recorder.step,
        checkpoint_uri=recorder.checkpoint_uri,
        run_folder=plan.run_uri,
        tracking_uri=plan.tracking.uri,
        mlflow_run_id=tracker.run_id(),
        samples_per_s=recorder.samples_per_s,
        store_peak_bytes=recorder.store_peak.total_bytes,
        evaluation=recorder.evaluation.get("raw", []),
        evaluation_ema=recorder.evaluation.get("ema", []),
    )


def _live_record(plan: Plan, recorder: Recorder, tracker: Tracker) -> LiveRecord:
    return LiveRecord(
        run=plan.name,
        submission=submission_id(),
        status=recorder.status,
        step=recorder.step,
        steps=plan.steps,
        global_size=plan.batch.mean_size(recorder.step, plan.steps),
        samples_per_s=recorder.samples_per_s,
        checkpoint_uri=recorder.checkpoint_uri,
        tracking_uri=plan.tracking.uri,
        mlflow_run_id=tracker.run_id(),
        written_at=time.time(),
        reason=recorder.reason,
    )


def _train(
    plan: Plan, cluster: ClusterSpec, store: Store, recorder: Recorder, stop: StopRequest, lease: Lease
) -> Literal["finished", "stopped"]:
    last = find_checkpoint(store)
    if last is not None and last.step >= plan.steps and _is_judged(plan, store):
        logger.info(
            "run '%s' is finished: step %s of %s; nothing to train", plan.name, f"{last.step:,}", f"{plan.steps:,}"
        )
        recorder.step, recorder.checkpoint_uri = last.step, last.uri
        return "finished"
    if last is not None:
        logger.info("run '%s' goes on from its checkpoint at step %s", plan.name, f"{last.step:,}")

    from orchestrator.runs.attempts import run_attempts  # Ray is only imported once there is work for it
    from orchestrator.runs.session import ray_session

    with ray_session(cluster, plan.machine):
        stop.listen()
        return run_attempts(plan, recorder, stop, lease).status


def _is_judged(plan: Plan, store: Store) -> bool:
    """Whether the last weights were evaluated: else workers start once more for that alone."""
    if not plan.evaluation.sets:
        return True
    from orchestrator.evaluation.predictions import is_judged
    from orchestrator.training.judge import judged_weights

    weights = judged_weights(plan.evaluation, has_average=plan.ema is not None)
    return is_judged(store, plan.steps, weights)


def _record_start(plan: Plan, tracker: Tracker) -> dict[str, str]:
    """Returns the digests of evaluation sets."""
    tracker.set_tags(code_tags())
    tracker.log_params(flat_params(plan.model_dump(mode="json")))
    tracker.log_text("plan.json", plan.model_dump_json(indent=2))
    train = [source.shards for source in plan.data.sources]
    return record_inputs(tracker, train, plan.data.heldout, plan.evaluation, plan.evaluation_uris, plan.s3)
