"""Runs side by side: the command ``compare``, and the summary of a compare job."""

from __future__ import annotations

import json as json_format
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import LAPTOP, ClusterOption, JsonOption, run_uri
from orchestrator.cli.results import mlflow_page

if TYPE_CHECKING:
    from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
    from orchestrator.evaluation.verdict import Verdict
    from orchestrator.report.contents import Contents
    from orchestrator.runs.compare import CompareOutcome
    from orchestrator.tracking.tracker import RunRow

_HEADINGS = (
    "objective", "replicates", "mean", "spread", "samples/s", "steps s", "data wait s", "evaluation s", "device s",
    "FLOPs", "search s", "prepare s", "settings",
)  # fmt: skip


RunsArgument = Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs or comparisons, by name or folder.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every score, not only means over targets and retrieval.")]


def compare(
    runs: RunsArgument, cluster: ClusterOption = LAPTOP, json: JsonOption = False, all: AllOption = False
) -> None:
    """Show runs side by side: one line a score, one column a run. A comparison shows its verdict, means and spread, and
    stands for its finished replicates.
    """
    from orchestrator.evaluation.results import finite_or_null
    from orchestrator.report.contents import read_verdict
    from orchestrator.runs.compare_runs import is_comparison, read_runs
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    uris = [run_uri(run, place) for run in runs]
    found = [read_verdict(uri, place.storage.s3) for uri in uris if is_comparison(uri, place)]
    rows = read_runs(uris, place)
    if json:
        documents = [*(_comparison_document(*one) for one in found), *(_document(row) for row in rows)]
        typer.echo(json_format.dumps(finite_or_null(documents), indent=2, allow_nan=False))
        return
    for result, verdict in found:
        print_objectives(result)
        _print_sentence(verdict)
        terminal.out.print()
    _print_side_by_side(rows, all)


def _print_side_by_side(rows: Sequence[RunRow], all: bool) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.evaluation if _is_shown(name, all)))
    facts = [
        ("objective", *(row.objective or "" for row in rows)),
        ("status", *(row.status for row in rows)),
        ("steps", *("" if row.steps is None else f"{row.steps:,}" for row in rows)),
        ("samples/s", *("" if row.samples_per_s is None else f"{row.samples_per_s:,.0f}" for row in rows)),
    ]
    scores = [
        (name, *(f"{row.evaluation[name]:.4f}" if name in row.evaluation else "-" for row in rows)) for name in names
    ]
    terminal.print_table(("", *(row.name for row in rows)), [*facts, *scores])


def _comparison_document(result: ComparisonResult, verdict: Verdict) -> dict[str, object]:
    return {
        "comparison": result.name,
        "primary_metric": result.primary_metric,
        "verdict": verdict.sentence,
        "notes": verdict.notes,
        "objectives": {
            spread.objective: {
                "mean": spread.mean,
                "spread": _deviation(spread.scores) if len(spread.scores) > 1 else None,
                "scores": spread.scores,
            }
            for spread in verdict.spreads
        },
        "baselines": {one.objective: one.scores.get(result.primary_metric) for one in result.baselines},
    }


def _document(row: RunRow) -> dict[str, object]:
    return {
        "run": row.name,
        "objective": row.objective,
        "status": row.status,
        "steps": row.steps,
        "samples_per_s": row.samples_per_s,
        "scores": row.evaluation,
    }


def _is_shown(name: str, all_scores: bool) -> bool:
    if name.endswith(("/low", "/high")):
        return False
    return all_scores or "/mean_accuracy" in name or name.endswith("/recall_at_1")


def print_compare(outcome: CompareOutcome, contents: Contents) -> None:
    """The verdict, one line an objective, what failed, and where everything is."""
    from orchestrator.report.write import REPORT_FILE

    result = outcome.result
    print_objectives(result)
    for trial in (*result.trials, *result.baselines):
        if trial.reason:
            terminal.out.print(f"{trial.run}: {trial.status}: {trial.reason}", markup=False, soft_wrap=True)
    print_verdict(contents)
    terminal.print_pairs(
        [
            ("comparison", f"{result.name}: {outcome.status}"),
            ("report", f"{outcome.folder}/{REPORT_FILE}"),
            ("folder", outcome.folder),
            ("log file", terminal.log_file() or "none"),
            ("MLflow", mlflow_page(result.tracking_uri)),
        ]
    )


def print_objectives(result: ComparisonResult) -> None:
    """One line an objective, baselines behind them."""
    terminal.out.print(f"{result.primary_metric}, {result.budget}, {result.mode}", style="bold", markup=False)
    baselines = [
        (
            f"{one.objective} (baseline)",
            "",
            _mean([one.scores.get(result.primary_metric)]),
            *[""] * (len(_HEADINGS) - 3),
        )
        for one in result.baselines
    ]
    terminal.print_table(_HEADINGS, [*(_row(result, entry.label) for entry in result.objectives), *baselines])
    terminal.out.print(
        "\nspread: standard deviation over replicates; costs are sums over them and their cooldowns; "
        "search: of all its trials; prepare: making its vocabulary or tokenizer",
        markup=False,
        soft_wrap=True,
    )


def print_verdict(contents: Contents) -> None:
    """The sentence, what it rests on, and why there are no pictures of it."""
    _print_sentence(contents.verdict)
    if contents.without_sheet:
        terminal.err.print(f"no pictures in the report: {contents.without_sheet}", markup=False, soft_wrap=True)


def _print_sentence(verdict: Verdict) -> None:
    terminal.out.print(verdict.sentence, style="bold", markup=False, soft_wrap=True)
    for note in verdict.notes:
        terminal.out.print(note, style="dim", markup=False, soft_wrap=True)


def _row(result: ComparisonResult, label: str) -> tuple[str, ...]:
    scores = result.primary_scores(label)
    trials = [trial for trial in result.trials if (trial.objective, trial.phase) == (label, "verdict")]
    charged = [*trials, *(cooldown for trial in trials for cooldown in result.cooldowns_of(trial))]
    entry = next(entry for entry in result.objectives if entry.label == label)
    chosen = ", ".join(f"{key} {_short(value)}" for key, value in entry.chosen.items())
    return (
        label,
        f"{len(scores)} of {len(trials)}",
        _mean(scores),
        f"{_deviation(scores):.4f}" if len(scores) > 1 else "-",
        _speed(trials),
        *(f"{sum(getattr(trial.cost, key) for trial in charged):,.0f}" for key in _SECONDS),
        f"{sum(trial.cost.flops for trial in charged):.3g}",
        f"{result.search_s(label):,.0f}",
        f"{entry.prepare_s:,.1f}",
        chosen or ("default" if entry.tuned else "untuned"),
    )


_SECONDS = ("step_s", "data_wait_s", "evaluation_s", "device_s")


def _speed(trials: list[TrialResult]) -> str:
    speeds = [trial.cost.samples_per_s for trial in trials if trial.cost.samples_per_s]
    return f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-"


def _mean(scores: Sequence[float | None]) -> str:
    found = [score for score in scores if score is not None]
    return f"{sum(found) / len(found):.4f}" if found else "-"


def _deviation(scores: Sequence[float]) -> float:
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
