"""Commands about clusters that are made for a job: ``render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import JobArgument, SetOption
from orchestrator.errors import PlanError

LaunchClusterOption = Annotated[str, typer.Option("--cluster", help="Cluster folder with a section 'launch'.")]
OutputOption = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="File; none: stdout.")]


def render(
    job: JobArgument, cluster: LaunchClusterOption, output: OutputOption = None, overrides: SetOption = None
) -> None:
    """Print what would be handed to Kubernetes or Slurm; starts nothing."""
    from orchestrator.launch.quota import queue_file
    from orchestrator.launch.render import render_job
    from orchestrator.spec.load import load_cluster, load_job

    text = render_job(load_job(job, overrides or ()), load_cluster(cluster), queue_file(cluster))
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PlanError(f"--output {output}: cannot be written ({error.strerror})") from error
    terminal.err.print(f"wrote {output}", markup=False, soft_wrap=True)
