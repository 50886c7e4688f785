"""Commands about job files: ``check``, ``plan``, ``run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from orchestrator.cli import terminal
from orchestrator.cli.labels import run_prepare
from orchestrator.cli.options import LAPTOP, ClusterOption, JobArgument, JsonOption, SetOption
from orchestrator.cli.results import print_evaluation, print_pretrain

if TYPE_CHECKING:
    from orchestrator.spec.cluster import ClusterSpec
    from orchestrator.spec.compare import CompareSpec
    from orchestrator.spec.kinds import Job


def check(job: JobArgument, cluster: ClusterOption = LAPTOP, overrides: SetOption = None) -> None:
    """Say what is wrong with a job on a cluster, before anything starts."""
    spec, place = _load(job, cluster, overrides)
    from orchestrator.runs.check import check_job

    num_wrong = 0
    for finding in check_job(spec, place):
        num_wrong += not finding.holds
        terminal.print_finding(finding.subject, finding.holds, finding.detail)
    if num_wrong:
        raise typer.Exit(2)


def plan(
    job: JobArgument, cluster: ClusterOption = LAPTOP, json: JsonOption = False, overrides: SetOption = None
) -> None:
    """Show what would run, with the arithmetic; starts nothing and writes nothing."""
    from json import dumps

    from orchestrator.spec.capacity import estimate_capacity
    from orchestrator.spec.compare import CompareSpec
    from orchestrator.spec.describe import describe_evaluate, describe_plan, describe_prepare
    from orchestrator.spec.describe_capacity import describe_capacity
    from orchestrator.spec.job import EvaluateSpec, PrepareSpec
    from orchestrator.spec.resolve import resolve_plan

    spec, place = _load(job, cluster, overrides)
    if isinstance(spec, EvaluateSpec):
        document, sections = spec.model_dump_json(indent=2), describe_evaluate(spec, place)
    elif isinstance(spec, PrepareSpec):
        document, sections = spec.model_dump_json(indent=2), describe_prepare(spec, place)
    elif isinstance(spec, CompareSpec):
        from orchestrator.runs.compare_facts import read_compare_facts
        from orchestrator.spec.describe_compare import describe_compare
        from orchestrator.spec.resolve_compare import resolve_compare

        comparison = resolve_compare(spec, place, read_compare_facts(spec, place))
        document, sections = comparison.model_dump_json(indent=2), describe_compare(comparison)
    else:
        from orchestrator.runs.prepare import read_facts

        resolved = resolve_plan(spec, place, read_facts(spec, place))
        capacity = estimate_capacity(resolved, place)
        document = dumps({**resolved.model_dump(mode="json"), "capacity": capacity.to_dict()}, indent=2)
        sections = [*describe_plan(resolved), *describe_capacity(resolved, capacity)]
    if json:
        typer.echo(document)
    else:
        terminal.print_pairs(sections)


def run(job: JobArgument, cluster: ClusterOption = LAPTOP, overrides: SetOption = None) -> None:
    """Run a job here and now. The same name again goes on from the run's last checkpoint."""
    from orchestrator.spec.compare import CompareSpec
    from orchestrator.spec.job import EvaluateSpec, PrepareSpec

    spec, place = _load(job, cluster, overrides)
    if isinstance(spec, EvaluateSpec):
        from orchestrator.runs.evaluate import evaluate_job

        with terminal.err.status(f"judging {spec.run}"):
            results = evaluate_job(spec, place)
        for weights, of_weights in results.items():
            terminal.out.print("averaged weights" if weights == "ema" else "trained weights", style="bold")
            print_evaluation(of_weights)
        return
    if isinstance(spec, PrepareSpec):
        run_prepare(spec, place)
        return
    if isinstance(spec, CompareSpec):
        _run_compare(spec, place)
        return
    from orchestrator.runs.pretrain import run_pretrain

    with terminal.show_progress() as on_progress:
        result = run_pretrain(spec, place, on_progress=on_progress)
    print_pretrain(result)
    if result.status == "stopped":
        raise typer.Exit(130)


def _run_compare(spec: CompareSpec, place: ClusterSpec) -> None:
    from orchestrator.cli.compare import print_compare
    from orchestrator.report.write import write_report
    from orchestrator.runs.compare import run_compare

    with terminal.show_progress() as on_progress:
        outcome = run_compare(spec, place, on_progress=on_progress)
    with terminal.err.status("writing the report"):
        contents = write_report(outcome.folder, place.storage.s3)
    print_compare(outcome, contents)
    if outcome.status != "finished":
        raise typer.Exit(130 if outcome.status == "stopped" else 1)


def _load(job: str, cluster: str, overrides: list[str] | None) -> tuple[Job, ClusterSpec]:
    from orchestrator.spec.load import load_cluster, load_job

    return load_job(job, overrides or ()), load_cluster(cluster)
