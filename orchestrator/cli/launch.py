"""Commands about clusters that are made for a job: ``render``."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import JobArgument, SetOption

LaunchClusterOption = Annotated[str, typer.Option("--cluster", help="Cluster folder with a section 'launch'.")]
OutputOption = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="File; none: stdout.")]


def render(
    job: JobArgument, cluster: LaunchClusterOption, output: OutputOption = None, overrides: SetOption = None
) -> None:
    """Print what would be handed to Kubernetes or Slurm; starts nothing."""
    from orchestrator.launch.quota import queue_file
    from orchestrator.launch.render import render_job
    from orchestrator.spec.load import load_cluster, load_job
    from orchestrator.storage.destination import explaining_writes, local_destination

    text = render_job(load_job(job, overrides or ()), load_cluster(cluster), queue_file(cluster))
    if output is None:
        typer.echo(text, nl=False)
        return
    file = local_destination(output)
    with explaining_writes(file):
        file.write_text(text, encoding="utf-8")
    terminal.err.print(f"wrote {output}", markup=False, soft_wrap=True)
