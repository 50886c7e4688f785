"""From a worker's reports to what people see: tracker, progress, and the state that a run's end needs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.predictions import mark_judged
from orchestrator.evaluation.results import ProbeResult, summarise
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.runs.store_use import StorePeak
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.tracking import metrics
from orchestrator.tracking.tracker import RunStatus, Tracker
from orchestrator.training.reports import (
    CheckpointReport,
    EvaluationReport,
    NoteReport,
    PlaceReport,
    RemovalReport,
    Report,
    StepReport,
    Weights,
)

logger = logging.getLogger(__name__)


OnReport = Callable[["Recorder", Report], None]


class Recorder:
    """Takes reports in order."""

    def __init__(
        self,
        plan: Plan,
        tracker: Tracker,
        on_progress: OnProgress | None,
        on_report: OnReport | None = None,
        evaluation_digests: Mapping[str, str] = MappingProxyType({}),
        store: Store | None = None,
    ) -> None:
        """``on_report``: sees every report after it was recorded; ``evaluation_digests``: see ``inputs.py``;
        ``store``: the run's folder, where it is said which evaluations were recorded; none: nowhere.
        """
        self.plan = plan
        self._tracker = tracker
        self._on_progress = on_progress
        self._on_report = on_report
        self._evaluation_digests = evaluation_digests
        self._store = store
        self.num_attempts = 0
        self.checkpoint_uri = ""
        self.checkpoint_step = 0
        self.step = 0
        self.samples_per_s: float | None = None
        self.status, self.reason = RunStatus.RUNNING, ""
        self.places: dict[int, PlaceReport] = {}
        self.store_peak = StorePeak()
        self.evaluation: dict[Weights, list[ProbeResult]] = {}

    def record(self, reports: Sequence[Report]) -> None:
        """Record reports; none of this waits for MLflow."""
        for report in reports:
            match report:
                case StepReport():
                    self._record_step(report)
                case CheckpointReport():
                    self._record_checkpoint(report)
                case RemovalReport():
                    self._tracker.log_removal(report.uri)
                case EvaluationReport():
                    self._record_evaluation(report)
                case NoteReport():
                    logger.info("%s", report.text)
                case PlaceReport():
                    self.places[report.rank] = report
            if self._on_report is not None:
                self._on_report(self, report)
            if isinstance(report, EvaluationReport):
                self._mark_judged(report)

    def record_attempt(self, number: int) -> None:
        """Record that the workers start for the ``number``-th time."""
        self.num_attempts = number
        self.step = self.checkpoint_step  # what came behind is done again
        self.places.clear()
        self._tracker.log_metrics({metrics.ATTEMPTS: float(number)}, self.step)

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """Record how the run ended."""
        self.status, self.reason = status, reason
        self._tracker.finish(status, reason)

    def _record_step(self, report: StepReport) -> None:
        of_driver = (
            {metrics.OBJECT_STORE_BYTES: float(self.store_peak.take())} if metrics.LOSS in report.metrics else {}
        )
        self._tracker.log_metrics(report.metrics | of_driver, report.step)
        self.step = report.step
        self.samples_per_s = report.metrics.get(metrics.SAMPLES_PER_S, self.samples_per_s)
        if self._on_progress and metrics.LOSS in report.metrics:
            note = f"loss {report.metrics[metrics.LOSS]:.3f}, {self.samples_per_s or 0:,.0f} samples/s"
            self._on_progress(Progress("train", report.step, self.plan.steps, "steps", note))

    def _record_checkpoint(self, report: CheckpointReport) -> None:
        self.checkpoint_uri = report.uri
        self.step, self.checkpoint_step = max(self.step, report.step), report.step
        self._tracker.log_checkpoint(report.uri, report.step, report.metrics)
        logger.info("checkpoint at step %s: %s", f"{report.step:,}", report.uri)

    def _record_evaluation(self, report: EvaluationReport) -> None:
        results = [ProbeResult.from_dict(record) for record in report.results]
        self.evaluation[report.weights] = results
        record_evaluation(
            self._tracker, self._evaluation_digests, self.checkpoint_uri, report.step, results, report.weights
        )

    def _mark_judged(self, report: EvaluationReport) -> None:
        """Last of all: what is not marked is judged again by a driver that goes on."""
        if self._store is None:
            return
        try:
            mark_judged(self._store, report.step, report.weights)
        except OrchestratorError as error:
            logger.warning("a driver that goes on will judge step %s again: %s", f"{report.step:,}", error)


def record_evaluation(
    tracker: Tracker,
    digests: Mapping[str, str],
    checkpoint_uri: str,
    step: int,
    results: Sequence[ProbeResult],
    weights: Weights,
) -> None:
    """Probe scores with their intervals and means, linked to the checkpoint, one entry per evaluation set.

    Args:
        digests: of the sets, by name.
    """
    for dataset in dict.fromkeys(result.set for result in results):
        own = [result for result in results if result.set == dataset]
        values = summarise(own)
        for result in own:
            values |= result.metrics() | result.detail_metrics()
        if weights == "ema":
            values = {f"eval_ema/{key.removeprefix('eval/')}": value for key, value in values.items()}
        if values:
            tracker.log_evaluation(checkpoint_uri, step, values, dataset, digests.get(dataset, ""))
