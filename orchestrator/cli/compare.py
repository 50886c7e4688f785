"""Runs side by side: the command ``compare``, and the summary of a compare job."""

from __future__ import annotations

import json as json_format
import math
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import LAPTOP, ClusterOption, JsonOption, run_uri
from orchestrator.cli.results import mlflow_page

if TYPE_CHECKING:
    from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
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
    """Show runs side by side: one line a score, one column a run. A comparison stands for its finished replicates."""
    from orchestrator.runs.compare_runs import read_runs
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    rows = read_runs([run_uri(run, place) for run in runs], place)
    if json:
        typer.echo(json_format.dumps([_document(row) for row in rows], indent=2))
        return
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
    terminal.out.print(f"{result.primary_metric}, {result.budget}, {result.mode}", style="bold", markup=False)
    terminal.print_table(_HEADINGS, [_row(result, entry.label) for entry in result.objectives])
    terminal.out.print(
        "\nspread: standard deviation over replicates; costs are sums over them and their cooldowns; "
        "search: of all its trials; prepare: making its vocabulary or tokenizer",
        markup=False,
        soft_wrap=True,
    )
    for trial in result.trials:
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


def print_verdict(contents: Contents) -> None:
    """The sentence, and what it rests on."""
    terminal.out.print(contents.verdict.sentence, style="bold", markup=False, soft_wrap=True)
    for note in contents.verdict.notes:
        terminal.out.print(note, style="dim", markup=False, soft_wrap=True)
    if contents.without_sheet:
        terminal.err.print(f"no pictures in the report: {contents.without_sheet}", markup=False, soft_wrap=True)


def _row(result: ComparisonResult, label: str) -> tuple[str, ...]:
    scores = result.primary_scores(label)
    trials = [trial for trial in result.trials if (trial.objective, trial.phase) == (label, "verdict")]
    charged = [*trials, *(cooldown for trial in trials for cooldown in result.cooldowns_of(trial))]
    entry = next(entry for entry in result.objectives if entry.label == label)
    chosen = ", ".join(f"{key} {_short(value)}" for key, value in entry.chosen.items())
    return (
        label,
        f"{len(scores)} of {len(trials)}",
        f"{sum(scores) / len(scores):.4f}" if scores else "-",
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


def _deviation(scores: list[float]) -> float:
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
