"""What is shown of comparisons: the summary of a compare job."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.cli import terminal
from orchestrator.cli.results import mlflow_page

if TYPE_CHECKING:
    from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
    from orchestrator.runs.compare import CompareOutcome

_HEADINGS = (
    "objective", "replicates", "mean", "spread", "samples/s", "steps s", "data wait s", "evaluation s", "device s",
    "FLOPs", "settings",
)  # fmt: skip


def print_compare(outcome: CompareOutcome) -> None:
    """One line an objective, what failed, and where everything is."""
    result = outcome.result
    terminal.out.print(f"{result.primary_metric}, {result.budget}, {result.mode}", style="bold", markup=False)
    terminal.print_table(_HEADINGS, [_row(result, entry.label) for entry in result.objectives])
    terminal.out.print("\nspread: standard deviation over replicates; times are sums over them", markup=False)
    for trial in result.trials:
        if trial.reason:
            terminal.out.print(f"{trial.run}: {trial.status}: {trial.reason}", markup=False, soft_wrap=True)
    terminal.print_pairs(
        [
            ("comparison", f"{result.name}: {outcome.status}"),
            ("folder", outcome.folder),
            ("log file", terminal.log_file() or "none"),
            ("MLflow", mlflow_page(result.tracking_uri)),
        ]
    )


def _row(result: ComparisonResult, label: str) -> tuple[str, ...]:
    scores = result.primary_scores(label)
    trials = [trial for trial in result.trials if (trial.objective, trial.phase) == (label, "verdict")]
    entry = next(entry for entry in result.objectives if entry.label == label)
    chosen = ", ".join(f"{key} {_short(value)}" for key, value in entry.chosen.items())
    return (
        label,
        f"{len(scores)} of {len(trials)}",
        f"{sum(scores) / len(scores):.4f}" if scores else "-",
        f"{_deviation(scores):.4f}" if len(scores) > 1 else "-",
        _speed(trials),
        *(f"{sum(getattr(trial.cost, key) for trial in trials):,.0f}" for key in _SECONDS),
        f"{sum(trial.cost.flops for trial in trials):.3g}",
        chosen or ("default" if entry.tuned else "untuned"),
    )


_SECONDS = ("step_s", "data_wait_s", "evaluation_s", "device_s")


def _speed(trials: list[TrialResult]) -> str:
    speeds = [trial.cost.samples_per_s for trial in trials if trial.cost.samples_per_s]
    return f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-"


def _deviation(scores: list[float]) -> float:
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
