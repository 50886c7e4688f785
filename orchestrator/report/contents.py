"""What a report is made of: the comparison's records, its verdict, and pictures, read from where the runs left them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.errors import OrchestratorError, RunNotFoundError, TrackingError
from orchestrator.evaluation.comparison import COMPARISON_FILE, ComparisonResult, TrialResult
from orchestrator.evaluation.predictions import TargetPredictions, read_nearest, read_predictions, row_scores
from orchestrator.evaluation.verdict import Verdict, find_verdict
from orchestrator.report.contact_sheet import ContactSheet, NearestOf, make_contact_sheet
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


@dataclass(frozen=True)
class _Kept:
    """The predictions that the replicates left."""

    of_run: Mapping[str, Sequence[TargetPredictions]]
    damaged: tuple[str, ...]
    """What is wrong with those that do not read."""


def read_contents(comparison_uri: str, s3: S3Spec) -> Contents:
    """Read a comparison, whether or not it has ended.

    Raises:
        RunNotFoundError: no comparison there.
        TrackingError: a record of one that cannot be read.
    """
    comparison = _read_comparison(comparison_uri, s3)
    kept = _read_predictions(comparison, s3)
    sheet, without_sheet = _attempt(lambda: _make_sheet(comparison, kept, s3))
    return Contents(comparison, _verdict_of(comparison, kept), sheet, without_sheet)


def read_verdict(comparison_uri: str, s3: S3Spec) -> tuple[ComparisonResult, Verdict]:
    """A comparison and what it shows, without pictures; raises as ``read_contents``."""
    comparison = _read_comparison(comparison_uri, s3)
    return comparison, _verdict_of(comparison, _read_predictions(comparison, s3))


def _finished(comparison: ComparisonResult) -> list[TrialResult]:
    return [trial for trial in comparison.trials if trial.phase == "verdict" and trial.status == "finished"]


def _verdict_of(comparison: ComparisonResult, kept: _Kept) -> Verdict:
    rows = {
        run: found
        for run, own in kept.of_run.items()
        if (found := row_scores(own, comparison.primary_metric)) is not None
    }
    verdict = find_verdict(comparison, rows)
    return replace(
        verdict,
        notes=(*verdict.notes, *(f"Predictions that do not read count as none: {one}." for one in kept.damaged)),
    )


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


def _read_predictions(comparison: ComparisonResult, s3: S3Spec) -> _Kept:
    """Of the replicates that have ended; a damaged file costs what is read from it, not the verdict."""
    of_run: dict[str, list[TargetPredictions]] = {}
    damaged = []
    for trial in _finished(comparison):
        try:
            of_run[trial.run] = read_predictions(open_store(trial.run_uri, s3), trial.step, comparison.weights)
        except TrackingError as error:
            damaged.append(str(error))
    return _Kept(of_run, tuple(damaged))


def _read_plan(trial: TrialResult, s3: S3Spec) -> Plan | None:
    try:
        return load_plan(open_store(trial.run_uri, s3).read_bytes(PLAN_FILE).decode(), f"{trial.run_uri}/{PLAN_FILE}")
    except (OrchestratorError, UnicodeDecodeError):  # what needs it says that it is not there
        return None


def _make_sheet(comparison: ComparisonResult, kept: _Kept, s3: S3Spec) -> ContactSheet:
    finished = _finished(comparison)
    if not finished:
        raise RunNotFoundError("no replicate has ended")
    if kept.damaged:
        raise TrackingError(kept.damaged[0])
    found = [plan for trial in finished if (plan := _read_plan(trial, s3)) is not None]
    if not found:
        raise RunNotFoundError("the replicates' folders have no plan any more")
    with_vocabulary = (plan for plan in found if plan.evaluation_vocabulary or plan.model.vocabulary)
    predictions = {
        one.label: [kept.of_run[trial.run] for trial in finished if trial.objective == one.label]
        for one in comparison.objectives
    }
    plan = next(with_vocabulary, found[0])
    return make_contact_sheet(comparison.primary_metric, plan, predictions, _read_nearest(comparison, s3))


def _read_nearest(comparison: ComparisonResult, s3: S3Spec) -> NearestOf:
    """In the comparison's order of objectives."""
    nearest = {
        trial.objective: read_nearest(open_store(trial.run_uri, s3), trial.step, comparison.weights)
        for trial in reversed(_finished(comparison))  # the first replicate of each objective is the last to be taken
    }
    return {one.label: nearest[one.label] for one in comparison.objectives if one.label in nearest}


def plan_text(comparison: ComparisonResult) -> str:
    """The resolved comparison, for people."""
    return json.dumps(comparison.plan, indent=2)
