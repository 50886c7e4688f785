"""Commands about a cluster elsewhere: ``submit``, ``jobs``, ``logs``, ``stop``, ``doctor``."""

from __future__ import annotations

import codecs
import dataclasses
import json as json_format
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import LAPTOP, ClusterOption, JobArgument, JsonOption, SetOption
from orchestrator.errors import ClusterAccessError

if TYPE_CHECKING:
    from orchestrator.launch.ray_jobs import RayJobs
    from orchestrator.launch.submissions import JobRow
    from orchestrator.spec.cluster import ClusterSpec

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A submission's id, as 'submit' and 'jobs' print it, or a run: its last.")
]
FollowOption = Annotated[bool, typer.Option("--follow", help="Show what it prints until it ends.")]

_HEADINGS = ("id", "state", "done", "samples/s", "left", "run in MLflow", "reason")


def submit(job: JobArgument, cluster: ClusterOption, overrides: SetOption = None, follow: FollowOption = False) -> None:
    """Hand a job to a cluster that runs already; the same job again goes on from where it stopped."""
    from orchestrator.launch.ray_jobs import connect
    from orchestrator.launch.submit import submit_job, submit_section
    from orchestrator.spec.load import load_cluster, load_job

    spec, place = load_job(job, overrides or ()), load_cluster(cluster)
    jobs = connect(submit_section(place))
    with terminal.show_activity("the cluster looks at the job"):
        submission_id = submit_job(jobs, spec, place)
    typer.echo(submission_id)
    if follow:
        _follow(jobs, submission_id, cluster)


def list_jobs(cluster: ClusterOption = LAPTOP, json: JsonOption = False) -> None:
    """Show what runs on a cluster, and how far it is."""
    from orchestrator.launch.submissions import list_jobs
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    rows = list_jobs(place, _reach(place, "this is what storage knows", patience_s=0))
    if json:
        typer.echo(json_format.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    elif rows:
        terminal.print_table(_HEADINGS, [_cells(row) for row in rows])
    else:
        terminal.out.print(f"no jobs on cluster {place.name}", markup=False, soft_wrap=True)


def logs(
    submission: IdArgument,
    cluster: ClusterOption = LAPTOP,
    follow: FollowOption = False,
    rank: Annotated[str | None, typer.Option(help="A rank's number, or 'all'; none: the driver.")] = None,
) -> None:
    """Show what a submission's driver printed, or its ranks."""
    from orchestrator.launch.rank_logs import rank_logs
    from orchestrator.launch.submissions import run_store

    if rank is not None and rank != "all" and not rank.isdecimal():
        raise typer.BadParameter(f"--rank {rank}: wanted a number or 'all'")
    if rank == "all" and follow:
        raise typer.BadParameter("--follow shows one rank, or the driver, which hears of them all; leave out 'all'")
    jobs, place = _connect(cluster)
    found = jobs.find(submission)
    if rank is None and follow:
        _follow(jobs, found.id, cluster)
        return
    if rank is None:
        typer.echo(jobs.driver_log(found.id), nl=False)
        return
    wanted = None if rank == "all" else int(rank)
    for number, parts in rank_logs(jobs, run_store(place, found.run), found, wanted, follow):
        terminal.err.print(f"rank {number}", style="bold", markup=False)
        for text in codecs.iterdecode(parts, "utf-8", "replace"):
            typer.echo(text, nl=False)


def stop(
    submission: IdArgument,
    cluster: ClusterOption = LAPTOP,
    deadline: Annotated[float, typer.Option(min=0, help="Seconds until Ray ends it, checkpoint or not.")] = 300.0,
) -> None:
    """Have a submission write a checkpoint and end; 'submit' goes on from there.

    On a cluster that takes no submissions, and on one that is made for each job, name the run. Where nobody answers at
    the dashboard, the run is asked through its folder alone.
    """
    from orchestrator.launch.submissions import describe_end, stop_run, stop_submission
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.show_activity(f"{submission} writes a checkpoint and ends"):
        jobs = _reach(place, f"the run is asked through its folder in {place.storage.runs}")
        if jobs is None:
            ended = stop_run(place, submission, deadline)
        else:
            ended = stop_submission(jobs, place, jobs.find(submission), deadline)
    if not ended:
        what = "is asked to stop and has not yet" if jobs is None else "was ended by Ray, past its deadline"
        terminal.err.print(f"{submission} {what}{describe_end(place)}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
    typer.echo(f"{submission} has ended{describe_end(place)}")


def doctor(cluster: ClusterOption = LAPTOP, json: JsonOption = False) -> None:
    """Look at every connection and version that a job needs on a cluster; exit code 1 when anything is wrong."""
    from orchestrator.launch.doctor import examine
    from orchestrator.spec.load import load_cluster

    findings = []
    for finding in examine(load_cluster(cluster)):
        findings.append(finding)
        if not json:
            terminal.print_finding(finding.subject, finding.holds, finding.detail)
    if json:
        typer.echo(json_format.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    if not all(finding.holds for finding in findings):
        raise typer.Exit(1)


def _connect(cluster: str) -> tuple[RayJobs, ClusterSpec]:
    from orchestrator.launch.ray_jobs import connect
    from orchestrator.launch.submit import submit_section
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    return connect(submit_section(place)), place


def _reach(place: ClusterSpec, instead: str, patience_s: float | None = None) -> RayJobs | None:
    """The cluster's Ray; None where it takes no submissions or nobody answers, which is told with what is done then."""
    from orchestrator.launch.ray_client import ClusterAwayError
    from orchestrator.launch.ray_jobs import connect

    if place.submit is None:
        return None
    try:
        return connect(place.submit, patience_s)
    except ClusterAwayError as error:
        terminal.err.print(f"{error}; {instead}", markup=False, soft_wrap=True)
        return None


def _follow(jobs: RayJobs, submission_id: str, cluster: str) -> None:
    """Show the driver's output to its end, then leave with its exit code; the job does not need anyone to look."""
    again = f"{submission_id} goes on; see it with: orchestrator logs {submission_id} --cluster {cluster} --follow"
    try:
        for part in jobs.follow_driver(submission_id):
            typer.echo(part, nl=False)
    except KeyboardInterrupt:
        terminal.err.print(again, markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    except ClusterAccessError:
        terminal.err.print(again, markup=False, soft_wrap=True)
        raise
    found = jobs.find(submission_id)
    terminal.err.print(f"{submission_id}: {found.status}", markup=False, soft_wrap=True)
    raise typer.Exit(found.exit_code if found.exit_code in (0, 2, 130) else 1)


def _cells(row: JobRow) -> tuple[str, ...]:
    return (
        row.id,
        row.state,
        "" if row.step is None else f"{row.step:,} of {row.steps:,} {row.unit}",
        "" if row.samples_per_s is None else f"{row.samples_per_s:,.0f}",
        "" if row.seconds_left is None else f"{row.seconds_left / 60:,.0f} min",
        row.link or "",
        row.reason.splitlines()[0] if row.reason else "",
    )
