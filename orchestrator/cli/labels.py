"""Commands that compute labels ahead of training: ``label concepts``."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import LAPTOP, ClusterOption, JobArgument, JsonOption, SetOption
from orchestrator.errors import JobFileError

if TYPE_CHECKING:
    from orchestrator.runs.label import LabelResult
    from orchestrator.spec.cluster import ClusterSpec
    from orchestrator.spec.job import PrepareSpec

app = typer.Typer(
    help="Compute labels ahead of training, beside the shards.",
    epilog="Example: orchestrator label concepts jobs/concepts-scenes.yaml --cluster cluster/laptop",
    no_args_is_help=True,
)


@app.callback()
def _group() -> None:
    """Keeps ``concepts`` a command of its own while it is the only one."""


@app.command(epilog="Example: orchestrator label concepts jobs/concepts-scenes.yaml --cluster cluster/laptop --json")
def concepts(
    job: JobArgument, cluster: ClusterOption = LAPTOP, json: JsonOption = False, overrides: SetOption = None
) -> None:
    """Find the WordNet concepts of all captions, count them, keep vocabulary and labels. Started again, it goes on."""
    from orchestrator.spec.job import PrepareSpec
    from orchestrator.spec.load import load_cluster, load_job

    spec = load_job(job, overrides or ())
    if not isinstance(spec, PrepareSpec):
        raise JobFileError(f"{job}: kind is '{spec.kind}'; orchestrator label concepts runs jobs of kind 'prepare'")
    run_prepare(spec, load_cluster(cluster), json=json)


def run_prepare(job: PrepareSpec, cluster: ClusterSpec, *, json: bool = False) -> None:
    """Run a prepare job with a progress display, and print what it found."""
    from orchestrator.runs.label import label_concepts

    with terminal.show_progress() as on_progress:
        result = label_concepts(job, cluster, on_progress=on_progress)
    if json:
        typer.echo(json_format.dumps(asdict(result), indent=2))
    else:
        _print(result)


def _print(result: LabelResult) -> None:
    coverage = result.coverage
    by_labels = coverage["captions_by_labels"]
    shares = [f"{number}: {100 * share:.1f}%" for number, share in enumerate(by_labels[:-1])]
    terminal.print_pairs(
        [
            ("vocabulary", f"{result.num_concepts:,} concepts; digest {result.digest}\n{result.vocabulary}"),
            ("shards", f"{result.num_shards:,}, of which {result.num_stored:,} had their concepts already"),
            ("captions", f"{result.num_captions:,} of {result.num_samples:,} samples; {_left_out(result)}"),
            ("by labels", ", ".join([*shares, f"{len(by_labels) - 1} or more: {100 * by_labels[-1]:.1f}%"])),
            ("head", f"{_counted(coverage['head'])}; the first 1% carry {100 * coverage['head_share']:.1f}% of labels"),
            ("tail", f"{_counted(coverage['tail'])}; the last half {100 * coverage['tail_share']:.1f}%"),
            ("ImageNet-1k", f"{coverage['imagenet_1k']:,} of its 1,000 classes"),
        ]
    )


def _left_out(result: LabelResult) -> str:
    return (
        f"{result.num_without:,} samples without; of those read now {result.num_undecodable:,} not UTF-8, "
        f"{result.num_cut:,} cut for their length"
    )


def _counted(concepts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in concepts.items())
