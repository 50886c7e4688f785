"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from orchestrator.spec.cluster import ClusterSpec
    from orchestrator.training.checkpoint_folders import CheckpointChoice

JobArgument = Annotated[str, typer.Argument(metavar="JOB.yaml", help="Job file: what to run.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder or URI.")]
ClusterOption = Annotated[str, typer.Option(help="Cluster folder: where to run, and where data and runs are.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the job file; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
WeightsOption = Annotated[
    Literal["raw", "ema"], typer.Option(help="The trained weights, or their moving average where the job keeps one.")
]
CheckpointOption = Annotated[
    str, typer.Option(metavar="last|best|STEP", help="The newest, that of least held-out loss, or that of a step.")
]

LAPTOP = "cluster/laptop"


def read_checkpoint(text: str) -> CheckpointChoice:
    """What ``--checkpoint`` says."""
    if text == "last":
        return "last"
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r}: wanted last, best or a step", param_hint="--checkpoint")
    return int(text)


def run_uri(run: str, cluster: ClusterSpec) -> str:
    """The folder of a run that is given by its name, or by its folder or URI."""
    from orchestrator.spec.load import absolute_uri, join_uri

    return absolute_uri(run.rstrip("/")) if "/" in run else join_uri(cluster.storage.runs, run)
