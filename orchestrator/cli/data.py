"""Commands about data sets: ``data scenes``, ``data index``, ``data verify``."""

from __future__ import annotations

import json as json_format
import os
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import JsonOption
from orchestrator.runs.progress import Progress

if TYPE_CHECKING:
    from orchestrator.storage.store import Store

UriArgument = Annotated[str, typer.Argument(metavar="URI", help="Folder of shards: a path or s3://bucket/prefix.")]
PlaceOption = Annotated[
    str | None, typer.Option("--cluster", help="Cluster folder: how to reach s3://, and the root of relative paths.")
]
EndpointOption = Annotated[str | None, typer.Option(help="URL of an S3-compatible endpoint; none: AWS.")]

app = typer.Typer(
    help="Make, index and verify data sets.",
    epilog="Example: orchestrator data index data/scenes/train",
    no_args_is_help=True,
)


@app.command(epilog="Example: orchestrator data scenes data/scenes --num-train 4000 --num-eval 1000 --seed 0")
def scenes(
    dest: Annotated[str, typer.Argument(metavar="DEST", help="New or empty folder.")],
    num_train: Annotated[int, typer.Option(help="Training scenes.")] = 4000,
    num_eval: Annotated[int, typer.Option(help="Evaluation scenes; a quarter as many are held out.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    image_size: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
    annotations: Annotated[bool, typer.Option(help="Depth, normals and masks beside the shards.")] = True,
) -> None:
    """Write the embedded data set: rendered scenes with captions and exact ground truth."""
    from orchestrator.data.scenes.write import write_scenes

    with terminal.show_progress() as on_progress:
        summary = write_scenes(
            dest,
            num_train,
            num_eval,
            seed,
            image_size=image_size,
            annotate=annotations,
            progress=lambda done, total: on_progress(Progress("render scenes", done, total, "scenes")),
        )
    splits = ", ".join(f"{count:,} {split}" for split, count in summary.num_samples.items())
    terminal.out.print(f"{summary.dest}: {splits}; {summary.num_bytes:,} bytes", markup=False, soft_wrap=True)


@app.command(epilog="Example: orchestrator data index s3://bucket/cc3m/train --s3-endpoint http://127.0.0.1:9000")
def index(
    uri: UriArgument,
    json: JsonOption = False,
    chunks: Annotated[
        bool, typer.Option("--chunks", help="Read headers now, also where _stats.json tells the number of samples.")
    ] = False,
    cluster: PlaceOption = None,
    s3_endpoint: EndpointOption = None,
) -> None:
    """Index shards: what they hold and where; keeps the index beside them.

    Says what it reads. Shards that are known, or counted by img2dataset's _stats.json, are not opened.
    """
    from orchestrator.cli.results import indexing_document
    from orchestrator.runs.indexing import index_shards

    store = _open(uri, cluster, s3_endpoint)
    with terminal.show_progress() as on_progress:
        result = index_shards(store, on_progress, counts_suffice=not chunks)
    if json:
        typer.echo(json_format.dumps(indexing_document(result), indent=2))
        return
    found = result.index
    counted = f" ({found.num_counted:,} without a chunk table yet)" if found.num_counted else ""
    for line in (
        f"{store.uri}: {found.num_samples:,} samples in {len(found.shards):,} shards{counted}; digest {found.digest}",
        f"read in {result.cost}, {result.minutes:,.1f} minutes",
    ):
        terminal.out.print(line, markup=False, soft_wrap=True)


def _parse_share(text: str) -> float:
    """``1%`` or ``0.01``."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no share; wanted one such as 1% or 0.01") from error
    if not 0 < share <= 1:
        raise typer.BadParameter(f"{text!r} is no share; wanted more than 0 and at most 100%")
    return share


@app.command(epilog="Example: orchestrator data verify s3://bucket/cc3m/train --sample 1% --json")
def verify(
    uri: UriArgument,
    json: JsonOption = False,
    fix_index: Annotated[
        bool, typer.Option("--fix-index", help="Write the index anew: damaged shards count only their whole samples.")
    ] = False,
    sample: Annotated[
        float | None, typer.Option(parser=_parse_share, metavar="SHARE", help="Look at this share of the chunks (1%).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed looks at other chunks.")] = 0,
    image_field: Annotated[
        list[str] | None, typer.Option(help="Extension or column of images; repeatable; none: a job's default.")
    ] = None,
    caption_field: Annotated[
        list[str] | None, typer.Option(help="Extension or column of captions; repeatable; none: a job's default.")
    ] = None,
    max_image_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger images are bombs; none: a job's default.")
    ] = None,
    no_duplicates: Annotated[
        bool, typer.Option("--no-duplicates", help="Do not look for samples that come twice, nor keep digests on disk.")
    ] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Readers at once; none: one a core.")] = None,
    cluster: PlaceOption = None,
    s3_endpoint: EndpointOption = None,
) -> None:
    """Read shards once, in parallel, and say what is wrong with them; exit code 1 when anything is.

    docs/data.md lists the reasons.
    """
    from orchestrator.cli.verification import show_verification
    from orchestrator.data.audit import SampleRules
    from orchestrator.data.chunk_sample import Sampling

    if fix_index and sample is not None:
        raise typer.BadParameter("--fix-index needs every shard read whole; leave out --sample")
    default = SampleRules()
    rules = SampleRules(
        tuple(image_field or default.image_fields),
        tuple(caption_field or default.caption_fields),
        max_image_pixels or default.max_image_pixels,
    )
    sampling = None if sample is None else Sampling(sample, seed)
    num_processes = processes or len(os.sched_getaffinity(0))
    store = _open(uri, cluster, s3_endpoint)
    if show_verification(store, rules, num_processes, sampling, json=json, fix=fix_index, duplicates=not no_duplicates):
        raise typer.Exit(1)


def _open(uri: str, cluster: str | None, s3_endpoint: str | None) -> Store:
    from orchestrator.spec.cluster import S3Spec
    from orchestrator.spec.load import join_uri, load_cluster
    from orchestrator.storage.store import open_store

    if cluster is not None and s3_endpoint is not None:
        raise typer.BadParameter("the cluster names the endpoint; give --cluster or --s3-endpoint")
    if cluster is not None:
        storage = load_cluster(cluster).storage
        return open_store(join_uri(storage.data, uri), storage.s3)
    return open_store(uri, S3Spec(endpoint=s3_endpoint))
