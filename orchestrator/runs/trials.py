"""Runs the trials of a comparison, each in a thread of the driver, as any pretrain job is run."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.data.ledger_report import total_rows
from orchestrator.errors import Interrupted, OrchestratorError, RunNotFoundError
from orchestrator.evaluation.comparison import TrialStatus
from orchestrator.runs.compare_facts import prepared_for
from orchestrator.runs.comparison import Comparison
from orchestrator.runs.comparison_record import TrialMeter
from orchestrator.runs.evaluate import evaluate_run
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.ledger import report_run_ledger
from orchestrator.runs.prepare import prepare_facts
from orchestrator.runs.pretrain import Onlookers, PretrainResult, run_plan
from orchestrator.runs.progress import Progress
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.relay import Board
from orchestrator.runs.worker_judge import WorkerJudge
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare_plan import TrialPlan
from orchestrator.spec.compare_share import resolve_shared
from orchestrator.spec.facts import Facts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve_compare import trial_job
from orchestrator.storage.lease import LOST_HOLDER_S
from orchestrator.training.reports import EvaluationReport, Report

logger = logging.getLogger(__name__)

SAMPLES, SCORE = "samples", "score"
"""What Tune hears of a trial."""

_OWN_FACTS = ("objective", "text", "data")


class TrialRunner:
    """As many trials at once as the plan proved; one that Tune starts earlier waits until another has ended."""

    def __init__(self, comparison: Comparison) -> None:
        self._of = comparison
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._trials = {trial.run: trial for trial in comparison.plan.trials}
        self._slots = threading.Semaphore(comparison.plan.share.at_once)
        self._prepare_lock = threading.Lock()
        self._stops: dict[str, StopRequest] = {}
        self._threads: list[threading.Thread] = []

    def start(self, run: str) -> None:
        """Begin a trial, or go on with it."""
        self._stops[run] = StopRequest(self._of.stop)
        thread = threading.Thread(target=self._run, args=(self._trials[run],), name=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop_early(self, run: str) -> None:
        """Tune is done with a trial: one that still runs was found to be behind the others."""
        search = self._of.plan.search
        if search is not None and not self._of.stop.requested and self._is_running(run):
            self._stops[run].ask(f"{search.scheduler} stopped it")

    def join(self) -> None:
        """Wait until all trials have written what they have to."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """End what would otherwise live as long as Ray."""
        ray.kill(self.board)

    def _is_running(self, run: str) -> bool:
        return self._of.record.trial(run).status == "running"

    def _run(self, trial: TrialPlan) -> None:
        record = self._of.record
        try:
            with self._slots:
                if not self._of.stop.requested:
                    record.change(trial.run, status="running", reason="")
                    self._train(trial)
        except Interrupted as error:
            record.change(trial.run, status=self._status_of_stopped(), reason=str(error))
        except OrchestratorError as error:
            record.change(trial.run, status="failed", reason=str(error))
            logger.warning("trial %s failed: %s", trial.run, error)
        except Exception as error:
            record.change(trial.run, status="failed", reason=f"{type(error).__name__}: {error}")
            logger.exception("trial %s failed", trial.run)
        finally:
            self._show_ended()
            self.board.put.remote(trial.run, None)

    def _train(self, trial: TrialPlan) -> None:
        spec, record = self._of.spec, self._of.record
        settings = record.trial(trial.run).settings
        if trial.phase != "search":
            settings = self._of.agenda.chosen(trial.objective)
            record.change(trial.run, settings=settings)
        plan = self._resolve(trial, trial_job(spec, trial, settings), settings)
        trunk = None if trial.job.start is None else self._trials[trial.job.start.run]
        meter = TrialMeter(record, trial, spec.weights, plan, trunk)
        onlookers = Onlookers(
            on_progress=partial(self._show, trial.run) if self._of.on_progress else None,
            on_metrics=partial(self._of.on_metrics, run=trial.run) if self._of.on_metrics else None,
            on_report=partial(self._hear, trial, meter),
        )
        try:
            result = run_plan(
                plan,
                self._of.cluster,
                self._stops[trial.run],
                onlookers,
                parent_key=self._of.key,
                patience_s=LOST_HOLDER_S,  # a driver that was killed held its trials' leases
            )
        finally:
            meter.keep_wall()
        self._conclude(trial, plan, meter, result)

    def _resolve(self, trial: TrialPlan, job: PretrainSpec, settings: Mapping[str, Any]) -> Plan:
        of = self._of
        facts: Facts = of.facts.by_label[trial.objective]
        if any(key.partition(".")[0] in _OWN_FACTS for key in settings):  # such as another min_count of concepts
            with self._prepare_lock:
                facts = prepare_facts(job, of.cluster)
                of.record.charge(trial.objective, prepared_for(facts, of.cluster.storage.s3))
        plan = resolve_shared(job, of.cluster, facts, of.plan.share)
        return plan.model_copy(update={"evaluation_vocabulary": of.facts.vocabulary})

    def _hear(self, trial: TrialPlan, meter: TrialMeter, recorder: Recorder, report: Report) -> None:
        meter.take(recorder, report)
        metric = self._of.plan.search_metric if trial.phase == "search" else self._of.plan.primary_metric
        scores = self._of.record.trial(trial.run).scores
        if isinstance(report, EvaluationReport) and metric in scores:
            samples = recorder.plan.batch.start(report.step)
            self.board.put.remote(trial.run, {SAMPLES: samples, SCORE: scores[metric]})

    def _conclude(self, trial: TrialPlan, plan: Plan, meter: TrialMeter, result: PretrainResult) -> None:
        of, own = self._of, self._stops[trial.run]
        values: dict[str, Any] = {"mlflow_run_id": result.mlflow_run_id, "checkpoint_uri": result.checkpoint_uri}
        if result.status == "stopped":
            meter.end(
                status=self._status_of_stopped(),
                reason=f"{own.reason} at step {result.step:,}",
                step=result.step,
                **values,
            )
            return
        if not meter.is_judged:  # its workers were lost between the last checkpoint and their verdict
            judge = WorkerJudge(of.cluster, plan.machine, plan.workers, own.raise_if_asked)
            meter.judge(
                result.step,
                evaluate_run(plan.run_uri, of.cluster, weights=of.spec.weights, is_own=True, judge=judge),
            )
        meter.end(status="finished", reason="", step=result.step, ledger=_ledger(plan.run_uri, of.cluster), **values)

    def _status_of_stopped(self) -> TrialStatus:
        """Of a trial that did not get to its end: it goes on at the next start, or was found to be behind."""
        return "waiting" if self._of.stop.requested else "stopped"

    def _show(self, run: str, progress: Progress) -> None:
        assert self._of.on_progress is not None
        self._of.on_progress(replace(progress, activity=run))

    def _show_ended(self) -> None:
        if self._of.on_progress is not None:
            trials = self._of.record.result.trials
            ended = sum(trial.status in ("finished", "stopped", "failed") for trial in trials)
            self._of.on_progress(Progress(self._of.plan.name, ended, len(trials), "trials"))


def _ledger(run_uri: str, cluster: ClusterSpec) -> dict[str, int]:
    """Totals of a run's ledger; none for synthetic data."""
    try:
        return total_rows(report_run_ledger(run_uri, cluster).rows)
    except RunNotFoundError:
        return {}
