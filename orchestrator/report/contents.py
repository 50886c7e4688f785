"""What a report is made of: the comparison's records, its verdict, and pictures, read from where the runs left them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.errors import OrchestratorError, RunNotFoundError, TrackingError
from orchestrator.evaluation.comparison import COMPARISON_FILE, ComparisonResult, TrialResult
from orchestrator.evaluation.predictions import TargetPredictions, read_nearest, read_predictions, row_scores
from orchestrator.evaluation.verdict import Verdict, find_verdict
from orchestrator.report.contact_sheet import ContactSheet, NearestOf, Predictions, make_contact_sheet
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.plan import PLAN_FILE, Plan, load_plan
from orchestrator.storage.store import ObjectNotFoundError, open_store

T = TypeVar("T")


@dataclass(frozen=True)
class Contents:
    """Everything that a page shows."""

    comparison: ComparisonResult
    verdict: Verdict
    sheet: ContactSheet | None
    without_sheet: str
    """Why there are no pictures; empty where there are."""

    @property
    def cooldowns(self) -> list[TrialResult]:
        """What was branched off the replicates, in their order."""
        return [cooldown for trial in self.replicates for cooldown in self.comparison.cooldowns_of(trial)]

    @property
    def replicates(self) -> list[TrialResult]:
        """The trials that count, in the comparison's order of objectives."""
        order = [one.label for one in self.comparison.objectives]
        own = [trial for trial in self.comparison.trials if trial.phase == "verdict"]
        return sorted(own, key=lambda trial: (order.index(trial.objective), trial.replicate))


def read_contents(comparison_uri: str, s3: S3Spec) -> Contents:
    """Read a comparison, whether or not it has ended.

    Raises:
        RunNotFoundError: no comparison there.
        TrackingError: a record of one that cannot be read.
    """
    comparison = _read_comparison(comparison_uri, s3)
    finished = _finished(comparison)
    predictions = {trial.run: _predictions_of(comparison, trial, s3) for trial in finished}
    own = {
        one.label: [predictions[trial.run] for trial in finished if trial.objective == one.label]
        for one in comparison.objectives
    }
    plans = [_read_plan(trial, s3) for trial in finished]
    nearest = {
        trial.objective: read_nearest(open_store(trial.run_uri, s3), trial.step, comparison.weights)
        for trial in reversed(finished)  # the first replicate of each objective is the last to be taken
    }
    in_order = {one.label: nearest[one.label] for one in comparison.objectives if one.label in nearest}
    sheet, without_sheet = _attempt(lambda: _make_sheet(comparison, plans, own, in_order))
    return Contents(comparison, _verdict_of(comparison, predictions), sheet, without_sheet)


def read_verdict(comparison_uri: str, s3: S3Spec) -> tuple[ComparisonResult, Verdict]:
    """A comparison and what it shows, without pictures; raises as ``read_contents``."""
    comparison = _read_comparison(comparison_uri, s3)
    predictions = {trial.run: _predictions_of(comparison, trial, s3) for trial in _finished(comparison)}
    return comparison, _verdict_of(comparison, predictions)


def _finished(comparison: ComparisonResult) -> list[TrialResult]:
    return [trial for trial in comparison.trials if trial.phase == "verdict" and trial.status == "finished"]


def _verdict_of(comparison: ComparisonResult, predictions: Mapping[str, Sequence[TargetPredictions]]) -> Verdict:
    rows = {
        run: found
        for run, own in predictions.items()
        if (found := row_scores(own, comparison.primary_metric)) is not None
    }
    return find_verdict(comparison, rows)


def _attempt(make: Callable[[], T]) -> tuple[T | None, str]:
    """A part of the page, or why there is none: a set that has moved must not cost the page."""
    try:
        return make(), ""
    except OrchestratorError as error:
        return None, str(error)


def _read_comparison(uri: str, s3: S3Spec) -> ComparisonResult:
    try:
        content = open_store(uri, s3).read_bytes(COMPARISON_FILE)
    except ObjectNotFoundError as error:
        raise RunNotFoundError(
            f"{uri} holds no {COMPARISON_FILE}; a job of kind 'compare' writes it into the folder of its name, below "
            f"the cluster's storage.runs"
        ) from error
    try:
        return ComparisonResult.model_validate_json(content)
    except ValidationError as error:
        raise TrackingError(f"{uri}/{COMPARISON_FILE} is no comparison that this version can read: {error}") from error


def _predictions_of(comparison: ComparisonResult, trial: TrialResult, s3: S3Spec) -> list[TargetPredictions]:
    return read_predictions(open_store(trial.run_uri, s3), trial.step, comparison.weights)


def _read_plan(trial: TrialResult, s3: S3Spec) -> Plan | None:
    try:
        return load_plan(open_store(trial.run_uri, s3).read_bytes(PLAN_FILE).decode(), f"{trial.run_uri}/{PLAN_FILE}")
    except OrchestratorError:  # what needs it says that it is not there
        return None


def _make_sheet(
    comparison: ComparisonResult, plans: Sequence[Plan | None], own: Predictions, nearest: NearestOf
) -> ContactSheet:
    if not plans:
        raise RunNotFoundError("no replicate has ended")
    found = [plan for plan in plans if plan is not None]
    if not found:
        raise RunNotFoundError("the replicates' folders have no plan any more")
    with_vocabulary = (plan for plan in found if plan.evaluation_vocabulary or plan.model.vocabulary)
    return make_contact_sheet(comparison.primary_metric, next(with_vocabulary, found[0]), own, nearest)


def plan_text(comparison: ComparisonResult) -> str:
    """The resolved comparison, for people."""
    return json.dumps(comparison.plan, indent=2)
