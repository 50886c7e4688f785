"""What is known of a comparison while it runs: trials report from threads of their own, the file stays current."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.comparison import (
    ComparisonResult,
    CurvePoint,
    ObjectiveEntry,
    TrialResult,
)
from orchestrator.evaluation.results import POOLED, ProbeResult, summarise
from orchestrator.runs.compare_folder import save_comparison
from orchestrator.runs.recorder import Recorder
from orchestrator.spec.batches import Batches
from orchestrator.spec.compare_metric import VALIDATION_SCORE
from orchestrator.spec.compare_plan import ComparePlan, Phase, TrialPlan
from orchestrator.spec.flops import training_flops
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.tracking import metrics
from orchestrator.training.reports import CheckpointReport, EvaluationReport, Report, StepReport

logger = logging.getLogger(__name__)


class ComparisonRecord:
    """The current ``ComparisonResult``; safe in several threads."""

    def __init__(self, store: Store, result: ComparisonResult) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._result = result

    @property
    def result(self) -> ComparisonResult:
        """As it stands."""
        return self._result

    def trial(self, run: str) -> TrialResult:
        """What is known of one run."""
        return next(trial for trial in self._result.trials if trial.run == run)

    def change(self, run: str, **values: Any) -> None:
        """Replace fields of one run's record, and keep it."""
        with self._lock:
            trials = tuple(
                trial.model_copy(update=values) if trial.run == run else trial for trial in self._result.trials
            )
            self._result = self._result.model_copy(update={"trials": trials})
            self._save()

    def record_run(self, mlflow_run_id: str | None) -> None:
        """Keep where the comparison itself is recorded, once that is known."""
        with self._lock:
            self._result = self._result.model_copy(
                update={"mlflow_run_id": mlflow_run_id or self._result.mlflow_run_id}
            )
            self._save()

    def put_baseline(self, row: TrialResult) -> None:
        """Keep a baseline's row, in place of an earlier one."""
        with self._lock:
            others = [one for one in self._result.baselines if one.run_uri != row.run_uri]
            self._result = self._result.model_copy(update={"baselines": (*others, row)})
            self._save()

    def choose(self, label: str, settings: dict[str, Any]) -> None:
        """Keep what the search chose for an objective."""
        self._change_entry(label, lambda entry: {"chosen": settings})

    def charge(self, label: str, prepared: dict[str, float]) -> None:
        """Keep what else was made for an objective."""
        self._change_entry(label, lambda entry: {"prepared": entry.prepared | prepared})

    def _change_entry(self, label: str, change: Callable[[ObjectiveEntry], dict[str, Any]]) -> None:
        with self._lock:
            entries = tuple(
                entry.model_copy(update=change(entry)) if entry.label == label else entry
                for entry in self._result.objectives
            )
            self._result = self._result.model_copy(update={"objectives": entries})
            self._save()

    def _save(self) -> None:
        try:
            save_comparison(self._store, self._result)
        except OrchestratorError as error:  # the next change writes it again, the runs' own folders hold the rest
            logger.warning("comparison.json not written: %s", error)


def start_result(
    plan: ComparePlan,
    runs_uri: str,
    prepared: dict[str, dict[str, float]],
    before: ComparisonResult | None,
    baselines: Sequence[TrialResult] = (),
) -> ComparisonResult:
    """The result at a start: as it was left, or with every trial waiting.

    What was interrupted waits again; what failed is tried again, but for search trials whose choice is made.
    """
    known = {trial.run: trial for trial in before.trials} if before else {}
    entries = {entry.label: entry for entry in before.objectives} if before else {}
    judged = {one.run_uri: one for one in before.baselines if one.status == "finished"} if before else {}
    trials = []
    for trial in plan.trials:
        found = known.get(trial.run) or TrialResult(
            objective=trial.objective,
            phase=trial.phase,
            replicate=trial.replicate,
            settings=trial.settings,
            run=trial.run,
            run_uri=join_uri(runs_uri, trial.run),
            status="waiting",
            steps=trial.steps,
        )
        chosen = trial.phase == "search" and bool(entries[trial.objective].chosen) if entries else False
        if found.status == "running" or (found.status == "failed" and not chosen):
            found = found.model_copy(update={"status": "waiting", "reason": ""})
        trials.append(found)
    return ComparisonResult(
        name=plan.name,
        mode=plan.mode,
        primary_metric=plan.primary_metric,
        higher_is_better=plan.higher_is_better,
        budget=plan.budget,
        objectives=tuple(_start_entry(plan, label, prepared[label], entries.get(label)) for label in plan.labels),
        trials=tuple(trials),
        weights=plan.weights,
        tracking_uri=plan.tracking.uri,
        mlflow_run_id=before.mlflow_run_id if before else None,
        plan=plan.model_dump(mode="json"),
        baselines=tuple(judged.get(one.run_uri, one) for one in baselines),
    )


def _start_entry(
    plan: ComparePlan, label: str, prepared: dict[str, float], before: ObjectiveEntry | None
) -> ObjectiveEntry:
    number = len(plan.trials_of(label, "search"))
    return ObjectiveEntry(
        label=label,
        tuned=number > 0,
        num_search_trials=number,
        chosen=before.chosen if before else {},
        prepared=(before.prepared if before else {}) | prepared,
    )


class TrialMeter:
    """Turns one run's reports into its record: cost, curve and scores, on top of what earlier starts left there."""

    def __init__(
        self,
        record: ComparisonRecord,
        trial: TrialPlan,
        weights: Literal["raw", "ema"],
        plan: Plan,
        trunk: TrialPlan | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``plan``: with what the search chose; ``trunk``: what a cooldown is branched off, which has ended."""
        self._record, self._trial, self._weights, self._num_workers = record, trial, weights, plan.workers.count
        self._batches: Batches = plan.batch
        self._first_sample = self._batches.start(trial.first_step)
        self._flops_per_sample = training_flops(plan)
        before = record.trial(trial.run)
        self._cost, self._curve, self._duplicates = before.cost, list(before.curve), before.duplicate_caption_fraction
        self._attempts_before, self._wall_before_s = before.cost.attempts, before.cost.wall_s
        self._clock, self._started_s = clock, clock()
        self._s_before, self._flops_before = (0.0, 0.0) if trunk is None else self._spent_before(trunk)

    @property
    def is_judged(self) -> bool:
        """Whether there are scores of the end."""
        wants_none = not self._trial.job.evaluation.sets
        return wants_none or bool(self._curve and self._curve[-1].step == self._trial.steps)

    def take(self, recorder: Recorder, report: Report) -> None:
        """One report, after it was recorded."""
        attempts = self._attempts_before + recorder.num_attempts
        if attempts != self._cost.attempts:
            self._cost = self._cost.model_copy(update={"attempts": attempts})
            self._keep()
        match report:
            case StepReport() if report.num_steps:
                self._add_steps(report)
            case EvaluationReport():
                self._add(evaluation_s=report.seconds)
                if report.weights == self._weights:
                    self.judge(report.step, [ProbeResult.from_dict(result) for result in report.results])
            case CheckpointReport():
                self._keep(checkpoint_uri=report.uri, step=report.step)

    def judge(self, step: int, results: Sequence[ProbeResult]) -> None:
        """Take scores at a step; what an earlier attempt found there or later no longer counts."""
        scores = scores_of(results, self._trial.phase)
        point = CurvePoint(
            step=step,
            samples=self._batches.start(step),
            train_s=self._s_before + self._cost.step_s + self._cost.data_wait_s,
            flops=self._flops_before + (self._batches.start(step) - self._first_sample) * self._flops_per_sample,
            scores=scores,
            schedule_ended=step == self._trial.steps and self._trial.job.schedule.kind != "constant",
        )
        self._curve = [*(one for one in self._curve if one.step < step), point]
        self._keep(curve=tuple(self._curve), scores=scores, step=step)

    def keep_wall(self) -> None:
        """Count the time until now, whatever has ended."""
        self._keep()

    def end(self, **values: Any) -> None:
        """Close the record with what the run's end says of it."""
        self._keep(**values)

    def _spent_before(self, trunk: TrialPlan) -> tuple[float, float]:
        """Seconds and FLOPs that the trunk had taken where this run starts, by its mean over samples."""
        cost = self._record.trial(trunk.run).cost
        share = self._first_sample / max(cost.samples, 1)
        return (cost.step_s + cost.data_wait_s) * share, cost.flops * share

    def _keep(self, **values: Any) -> None:
        wall_s = self._wall_before_s + self._clock() - self._started_s  # a driver that is killed keeps it, too
        self._cost = self._cost.model_copy(update={"wall_s": wall_s})
        values |= {"cost": self._cost, "duplicate_caption_fraction": self._duplicates}
        self._record.change(self._trial.run, **values)

    def _add_steps(self, report: StepReport) -> None:
        # Steps below a checkpoint that a killed driver did not get to record: they count as long as those measured now.
        recorded = self._batches.step_at(self._first_sample + self._cost.samples)
        unrecorded = max(0, report.step - report.num_steps - recorded)
        num_steps = report.num_steps + unrecorded
        samples = self._batches.start(report.step) - self._batches.start(report.step - num_steps)
        seconds = report.metrics[metrics.STEP_S] * num_steps
        wait_s = seconds * report.metrics[metrics.DATA_WAIT_FRACTION]
        self._add(
            step_s=seconds - wait_s,
            data_wait_s=wait_s,
            device_s=seconds * self._num_workers,
            flops=samples * self._flops_per_sample,
            samples=samples,
        )
        trained_s = self._cost.step_s + self._cost.data_wait_s
        self._cost = self._cost.model_copy(update={"samples_per_s": self._cost.samples / trained_s})
        if (found := report.metrics.get(metrics.DUPLICATE_CAPTION_FRACTION)) is not None:
            before = found if self._duplicates is None else self._duplicates
            self._duplicates = before + (found - before) * samples / self._cost.samples

    def _add(self, **values: float) -> None:
        added = {key: getattr(self._cost, key) + value for key, value in values.items()}
        self._cost = self._cost.model_copy(update=added)


def scores_of(results: Sequence[ProbeResult], phase: Phase) -> dict[str, float]:
    """Scores by full metric name; of a search trial only those of validation rows, so that no test row chooses.

    Those that are not finite are left out: nothing could be told from them, and JSON does not hold them.
    """
    found = _all_scores_of(results, phase)
    if wrong := [name for name, value in found.items() if not math.isfinite(value)]:
        logger.warning("%d scores are not finite and left out, such as %s", len(wrong), wrong[0])
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _all_scores_of(results: Sequence[ProbeResult], phase: Phase) -> dict[str, float]:
    if phase != "search":
        return {name: value for result in results for name, value in result.metrics().items()} | summarise(results)
    scores: dict[str, float] = {}
    groups: dict[str, list[float]] = {}
    for result in results:
        if result.probe != "linear_probe" or result.feature != POOLED or VALIDATION_SCORE not in result.details:
            continue
        prefix, value = f"eval/{result.set}/linear_probe", result.details[VALIDATION_SCORE]
        scores[f"{prefix}/{result.target}/{VALIDATION_SCORE}"] = value
        for group in ("named" if result.named_in_captions else "unnamed", "all"):
            groups.setdefault(f"{prefix}/{group}/{VALIDATION_SCORE}", []).append(value)
    return scores | {name: sum(values) / len(values) for name, values in groups.items()}
