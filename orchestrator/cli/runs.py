"""Commands about runs that exist: ``evaluate``, ``ledger``, ``runs``."""

from __future__ import annotations

import dataclasses
import json as json_format
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import (
    LAPTOP,
    CheckpointOption,
    ClusterOption,
    JsonOption,
    RunArgument,
    WeightsOption,
    read_checkpoint,
    run_uri,
)
from orchestrator.cli.results import mlflow_page, print_evaluation

if TYPE_CHECKING:
    from orchestrator.spec.cluster import ClusterSpec
    from orchestrator.tracking.tracker import RunRow


def evaluate(
    run: RunArgument,
    cluster: ClusterOption = LAPTOP,
    json: JsonOption = False,
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = "last",
) -> None:
    """Judge a run's checkpoint again on the evaluation sets of its plan."""
    from orchestrator.evaluation.results import results_to_json
    from orchestrator.runs.evaluate import evaluate_run
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.show_activity(f"judging {run}"):
        uri, chosen = run_uri(run, place), read_checkpoint(checkpoint)
        results = evaluate_run(uri, place, weights=weights, checkpoint=chosen)
    if json:
        typer.echo(results_to_json(results), nl=False)
    else:
        print_evaluation(results)


def ledger(
    run: RunArgument,
    cluster: ClusterOption = LAPTOP,
    json: JsonOption = False,
    quarantine: Annotated[
        str | None,
        typer.Option(metavar="LIST.parquet", help="Write there what was skipped, by name and why."),
    ] = None,
    list_by: Annotated[str, typer.Option(help="What names them there: key, or a metadata column such as uid.")] = "key",
) -> None:
    """Show which samples a run was trained on, by data set and epoch; exit code 1 unless each had its turn once.

    A list written with --quarantine is one that data.select.deny takes, so that the next run does not meet them.
    """
    from orchestrator.cli.results import ledger_document, print_ledger
    from orchestrator.errors import RunNotFoundError
    from orchestrator.runs.ledger import report_run_ledger
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    uri = run_uri(run, place)
    num_listed = _write_quarantine(uri, place, quarantine, list_by) if quarantine is not None else 0
    try:
        with terminal.show_activity(f"reading the ledger of {run}"):
            report = report_run_ledger(uri, place)
    except RunNotFoundError as error:
        if not num_listed:
            raise
        terminal.err.print(str(error), markup=False, soft_wrap=True)  # it ended before its first checkpoint
        raise typer.Exit(1) from error
    if json:
        typer.echo(json_format.dumps(ledger_document(report), indent=2))
    else:
        print_ledger(report)
    if not report.is_healthy:
        raise typer.Exit(1)


def _write_quarantine(uri: str, cluster: ClusterSpec, destination: str, list_by: str) -> int:
    from orchestrator.runs.quarantine import write_quarantine_list

    with terminal.show_activity(f"looking up {list_by} of what was skipped"):
        written = write_quarantine_list(uri, cluster, destination, list_by)
    for line in (f"{written.num_rows:,} skipped samples: {destination}", *written.notes):
        terminal.err.print(line, markup=False, soft_wrap=True)
    return written.num_rows


def list_all(
    cluster: ClusterOption = LAPTOP,
    experiment: Annotated[str, typer.Option(help="MLflow experiment.")] = "vl-orchestrator",
    json: JsonOption = False,
    sync: Annotated[bool, typer.Option("--sync", help="First deliver records that MLflow has not got yet.")] = False,
) -> None:
    """Show what MLflow knows as a table; a run that died is closed first."""
    from orchestrator.spec.load import load_cluster
    from orchestrator.spec.resolve import resolve_tracking_uri
    from orchestrator.tracking.mlflow.runs import close_dead_runs, list_runs

    place = load_cluster(cluster)
    uri = resolve_tracking_uri(place)
    if sync:
        from orchestrator.runs.sync import sync_runs

        for delivered in sync_runs(place):
            terminal.err.print(delivered, markup=False, soft_wrap=True)
    close_dead_runs(uri, experiment)
    rows = list_runs(uri, experiment)
    if json:
        from orchestrator.evaluation.results import finite_or_null

        documents = finite_or_null([_row_document(row) for row in rows])
        typer.echo(json_format.dumps(documents, indent=2, allow_nan=False))
    elif rows:
        headings = (
            "run",
            "status",
            "objective",
            "steps",
            "samples/s",
            "linear probe",
            "zero-shot",
            "checkpoint",
            "reason",
        )
        terminal.print_table(headings, [_row_cells(row) for row in rows])
        terminal.out.print("\nlinear probe, zero-shot: mean accuracy on the targets that captions name")
        terminal.out.print(f"MLflow page: {mlflow_page(uri)}", markup=False, soft_wrap=True)
    else:
        terminal.out.print(f"no runs in experiment {experiment} of {uri}", markup=False, soft_wrap=True)


def _row_document(row: RunRow) -> dict[str, object]:
    return {**dataclasses.asdict(row), "started": row.started.isoformat()}


def _row_cells(row: RunRow) -> tuple[str, ...]:
    return (
        row.name,
        row.status,
        row.objective or "",
        "" if row.steps is None else f"{row.steps:,}",
        "" if row.samples_per_s is None else f"{row.samples_per_s:,.0f}",
        _mean_accuracy(row, "linear_probe"),
        _mean_accuracy(row, "zero_shot"),
        row.checkpoint_uri or "",
        row.reason or "",
    )


def _mean_accuracy(row: RunRow, probe: str) -> str:
    """Over the targets that captions name, of the raw weights; over all evaluation sets alike."""
    ending = f"/{probe}/named/mean_accuracy"
    found = [value for name, value in row.evaluation.items() if name.startswith("eval/") and name.endswith(ending)]
    return f"{sum(found) / len(found):.3f}" if found else ""
