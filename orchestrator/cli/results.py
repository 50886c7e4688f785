"""What commands print at their end: evaluation tables and the summary of a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import terminal

if TYPE_CHECKING:
    from orchestrator.evaluation.results import ProbeResult
    from orchestrator.runs.pretrain import PretrainResult


def print_pretrain(result: PretrainResult) -> None:
    """The summary of a run: how it ended, what it found, where everything is."""
    for title, results in (("trained weights", result.evaluation), ("averaged weights", result.evaluation_ema)):
        if results:
            terminal.out.print(title, style="bold")
            print_evaluation(results)
            terminal.out.print()
    speed = "" if result.samples_per_s is None else f"{result.samples_per_s:,.0f}"
    terminal.print_pairs(
        [
            ("run", f"{result.plan.name}: {result.status}"),
            ("steps", f"{result.step:,} of {result.plan.steps:,}"),
            ("samples/s", speed or "nothing was trained"),
            ("checkpoint", result.checkpoint_uri or "none"),
            ("run folder", result.run_folder),
            ("log file", terminal.log_file() or "none"),
            ("MLflow", mlflow_page(result.tracking_uri)),
        ]
    )


def print_evaluation(results: Sequence[ProbeResult]) -> None:
    """One line per set, probe, target and feature; the reason where a probe does not apply."""
    headings = ("set", "probe", "target", "feature", "accuracy", "chance", "classes", "in captions", "note")
    terminal.print_table(headings, [_evaluation_row(result) for result in results])


def _evaluation_row(result: ProbeResult) -> tuple[str, ...]:
    accuracy = "-" if result.accuracy is None else f"{result.accuracy:.3f}"
    chance = "-" if result.chance is None else f"{result.chance:.3f}"
    named = "yes" if result.named_in_captions else "no"
    classes = str(result.num_classes)
    return result.set, result.probe, result.target, result.feature, accuracy, chance, classes, named, result.reason


def mlflow_page(tracking_uri: str) -> str:
    """The server's URL, or the command that opens a local database as a page."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    program = Path(sys.executable).with_name("mlflow")
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return f"{program} ui --backend-store-uri {shlex.quote(tracking_uri)}"
