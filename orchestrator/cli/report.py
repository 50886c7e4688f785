"""Command ``report``: a comparison as a page."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.compare import print_verdict
from orchestrator.cli.options import LAPTOP, ClusterOption, run_uri


def report(
    comparison: Annotated[str, typer.Argument(metavar="COMPARISON", help="A comparison's name, or its folder or URI.")],
    output: Annotated[str, typer.Option("--output", "-o", help="HTML file to write.")] = "report.html",
    cluster: ClusterOption = LAPTOP,
) -> None:
    """Write a comparison's verdict, numbers and pictures as one page that needs no network."""
    from orchestrator.report.write import write_report
    from orchestrator.runs.page import record_page
    from orchestrator.spec.load import load_cluster
    from orchestrator.storage.destination import local_destination

    place = load_cluster(cluster)
    local_destination(output)  # before the page is drawn
    folder = run_uri(comparison, place)
    with terminal.show_activity(f"writing the report of {comparison}"):
        contents, page = write_report(folder, place.storage.s3, output)
        record_page(folder, place.storage.s3, page)
    print_verdict(contents)
    terminal.print_pairs([("report", output)])
