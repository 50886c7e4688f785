"""What commands print at their end: evaluation tables, ledgers and the summary of a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import terminal
from orchestrator.spec.short_names import short_names

if TYPE_CHECKING:
    from orchestrator.data.ledger_report import LedgerRow
    from orchestrator.evaluation.results import ProbeResult
    from orchestrator.runs.indexing import IndexingResult
    from orchestrator.runs.ledger import RunLedgerReport
    from orchestrator.runs.pretrain import PretrainResult


_EVALUATION_HEADINGS = (
    "set",
    "probe",
    "target",
    "feature",
    "score",
    "value",
    "95 % interval",
    "chance",
    "classes",
    "in captions",
    "note",
)
_LEDGER_COUNTS = (
    "expected",
    "trained_once",
    "inherited",
    "repeated",
    "skipped",
    "substituted",
    "left_out",
    "filtered",
    "missing",
    "unplanned",
    "unannotated",
)


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
            ("object store", f"{result.store_peak_bytes / 2**20:,.0f} MiB in use at most"),
            ("checkpoint", result.checkpoint_uri or "none"),
            ("run folder", result.run_folder),
            ("log file", terminal.log_file() or "none"),
            ("MLflow", mlflow_page(result.tracking_uri)),
        ]
    )


def print_evaluation(results: Sequence[ProbeResult]) -> None:
    """One line per set, probe, target, feature and score; the reason where a probe does not apply."""
    terminal.print_table(_EVALUATION_HEADINGS, [row for result in results for row in _evaluation_rows(result)])


def print_ledger(report: RunLedgerReport) -> None:
    """One line per data set and epoch, and a verdict."""
    headings = ("data set", "epoch", *_LEDGER_COUNTS, "reasons")
    names = short_names(report.datasets)
    rows = [_ledger_cells(row, names[row.dataset]) for row in report.rows]
    terminal.print_table(headings, rows)
    verdict = "every sample had its turn once" if report.is_healthy else "NOT HEALTHY: see repeated, missing, unplanned"
    terminal.out.print(f"\nup to step {report.step:,}: {verdict}")


def ledger_document(report: RunLedgerReport) -> dict[str, object]:
    """The same for a script."""
    rows = [
        {
            "dataset": report.datasets[row.dataset],
            "epoch": row.epoch,
            **_ledger_counts(row),
            "skip_reasons": row.skipped,
        }
        for row in report.rows
    ]
    totals = {name: sum(_ledger_counts(row)[name] for row in report.rows) for name in _LEDGER_COUNTS}
    return {"step": report.step, "healthy": report.is_healthy, "total": totals, "epochs": rows}


def indexing_document(result: IndexingResult) -> dict[str, object]:
    """What ``data index`` found and what it took, for a script."""
    index, plan = result.index, result.plan
    return {
        "uri": index.uri,
        "format": index.format,
        "num_shards": len(index.shards),
        "num_samples": index.num_samples,
        "size_bytes": index.size_bytes,
        "digest": index.digest,
        "without_chunk_table": index.num_counted,
        "shards": {"known": len(plan.kept), "counted": len(plan.counted), "read": len(plan.scanned)},
        "estimated": {**asdict(plan.most), "minutes": plan.minutes},
        "actual": {**asdict(result.cost), "minutes": result.minutes},
        "problems": index.problems,
    }


def _ledger_counts(row: LedgerRow) -> dict[str, int]:
    counts = {name: getattr(row, name) for name in _LEDGER_COUNTS}
    return {**counts, "skipped": sum(row.skipped.values())}


def _ledger_cells(row: LedgerRow, name: str) -> tuple[str, ...]:
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(row.skipped.items()))
    return name, str(row.epoch), *(f"{count:,}" for count in _ledger_counts(row).values()), reasons


def _evaluation_rows(result: ProbeResult) -> Iterator[tuple[str, ...]]:
    """One for each score, or one with the reason why there is none."""
    name = (result.set, result.probe, result.target, result.feature)
    rest = (str(result.num_classes), "yes" if result.named_in_captions else "no", result.reason)
    if not result.scores:
        yield *name, "-", "-", "-", "-", *rest
    for score, found in result.scores.items():
        chance = "-" if result.chance is None or score == "top5_accuracy" else f"{result.chance:.3f}"
        yield *name, score, f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", chance, *rest


def mlflow_page(tracking_uri: str) -> str:
    """The server's URL, or the command that opens a local database as a page."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    program = Path(sys.executable).with_name("mlflow")
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return f"{program} ui --backend-store-uri {shlex.quote(tracking_uri)}"
