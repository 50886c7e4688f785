"""Commands about job files: ``check``, ``plan``, ``run``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.labels import run_prepare
from orchestrator.cli.options import LAPTOP, ClusterOption, JobArgument, JsonOption, SetOption
from orchestrator.cli.results import print_evaluation, print_pretrain
from orchestrator.errors import OrchestratorError, PlanError

if TYPE_CHECKING:
    from orchestrator.runs.check import Finding
    from orchestrator.spec.cluster import ClusterSpec
    from orchestrator.spec.compare import CompareSpec
    from orchestrator.spec.kinds import Job


def check(job: JobArgument, cluster: ClusterOption = LAPTOP, overrides: SetOption = None) -> None:
    """Say what is wrong with a job on a cluster, before anything starts."""
    spec, place = _load(job, cluster, overrides)
    from orchestrator.runs.check import check_job

    num_wrong = 0
    for finding in chain(check_job(spec, place), _look_at_quota(spec, place, cluster)):
        num_wrong += not finding.holds
        terminal.print_finding(finding.subject, finding.holds, finding.detail)
    if num_wrong:
        raise typer.Exit(2)


def plan(
    job: JobArgument,
    cluster: ClusterOption = LAPTOP,
    json: JsonOption = False,
    overrides: SetOption = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make first what a run would: indexes, selection, tokenizer, vocabulary.")
    ] = False,
) -> None:
    """Show what would run, with the arithmetic; starts nothing, and without --prepare writes nothing."""
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
        from orchestrator.runs.compare_facts import prepare_compare_facts, read_compare_facts
        from orchestrator.spec.describe_compare import describe_compare
        from orchestrator.spec.resolve_compare import resolve_compare

        if prepare:
            with terminal.show_progress() as on_progress:
                asked = prepare_compare_facts(spec, place, on_progress).facts
        else:
            asked = read_compare_facts(spec, place)
        comparison = resolve_compare(spec, place, asked)
        document = comparison.model_dump_json(indent=2)
        sections = [*describe_compare(comparison), *_describe_quota(spec, place, cluster)]
    else:
        from orchestrator.runs.prepare import prepare_facts, read_facts

        if prepare:
            with terminal.show_progress() as on_progress:
                facts = prepare_facts(spec, place, on_progress)
        else:
            facts = read_facts(spec, place)
        resolved = resolve_plan(spec, place, facts)
        capacity = estimate_capacity(resolved, place)
        document = dumps({**resolved.model_dump(mode="json"), "capacity": capacity.to_dict()}, indent=2)
        sections = [*describe_plan(resolved), *describe_capacity(resolved, capacity)]
        sections += _describe_quota(spec, place, cluster)
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

        with terminal.show_progress() as on_progress:
            results = evaluate_job(spec, place, on_progress=on_progress)
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


def _describe_quota(spec: Job, place: ClusterSpec, cluster: str) -> list[tuple[str, str]]:
    from orchestrator.launch.nodes import plan_launch
    from orchestrator.launch.quota import check_quota, queue_file

    quota = check_quota(plan_launch(spec, place), place, queue_file(cluster)) if place.launch is not None else None
    return [("quota", quota)] if quota else []


def _look_at_quota(spec: Job, place: ClusterSpec, cluster: str) -> Iterator[Finding]:
    """Whether the cluster's queue can hold the job; nothing where there is none, or where the two do not fit anyway."""
    from orchestrator.launch.nodes import plan_launch
    from orchestrator.launch.quota import check_quota, queue_file
    from orchestrator.runs.check import Finding

    if place.launch is None:
        return
    try:
        nodes = plan_launch(spec, place)
    except OrchestratorError:
        return  # what is wrong has been said of the plan
    try:
        said = check_quota(nodes, place, queue_file(cluster))
    except PlanError as error:
        yield Finding("quota", False, str(error))
        return
    if said is not None:
        yield Finding("quota", True, said)


def _run_compare(spec: CompareSpec, place: ClusterSpec) -> None:
    from orchestrator.cli.compare import print_compare
    from orchestrator.report.write import write_report
    from orchestrator.runs.compare import run_compare
    from orchestrator.runs.page import record_page

    with terminal.show_progress() as on_progress:
        outcome = run_compare(spec, place, on_progress=on_progress)
    with terminal.show_activity("writing the report"):
        contents, page = write_report(outcome.folder, place.storage.s3)
        record_page(outcome.folder, place.storage.s3, page)
    print_compare(outcome, contents)
    if outcome.status != "finished":
        raise typer.Exit(130 if outcome.status == "stopped" else 1)


def _load(job: str, cluster: str, overrides: list[str] | None) -> tuple[Job, ClusterSpec]:
    from orchestrator.spec.load import load_cluster, load_job

    return load_job(job, overrides or ()), load_cluster(cluster)
