"""Commands about data sets: ``data scenes``, ``data index``."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import terminal
from orchestrator.runs.progress import Progress

app = typer.Typer(
    help="Make and index data sets.", epilog="Example: orchestrator data index data/scenes/train", no_args_is_help=True
)


@app.command(epilog="Example: orchestrator data scenes data/scenes --num-train 4000 --num-eval 1000 --seed 0")
def scenes(
    dest: Annotated[str, typer.Argument(metavar="DEST", help="New or empty folder.")],
    num_train: Annotated[int, typer.Option(help="Training scenes.")] = 4000,
    num_eval: Annotated[int, typer.Option(help="Evaluation scenes; a quarter as many are held out.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    image_size: Annotated[int, typer.Option(help="Pixels a side.")] = 64,
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
            progress=lambda done, total: on_progress(Progress("render scenes", done, total, "scenes")),
        )
    splits = ", ".join(f"{count:,} {split}" for split, count in summary.num_samples.items())
    terminal.out.print(f"{summary.dest}: {splits}; {summary.num_bytes:,} bytes", markup=False, soft_wrap=True)


@app.command(epilog="Example: orchestrator data index s3://bucket/cc3m/train --s3-endpoint http://127.0.0.1:9000")
def index(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Folder of shards: a path or s3://bucket/prefix.")],
    cluster: Annotated[
        str | None, typer.Option(help="Cluster folder: how to reach s3://, and the root of relative paths.")
    ] = None,
    s3_endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible endpoint; none: AWS.")] = None,
) -> None:
    """Index shards: what they hold and where; keeps the index beside them."""
    from orchestrator.runs.prepare import index_shards
    from orchestrator.spec.cluster import S3Spec
    from orchestrator.spec.load import join_uri, load_cluster
    from orchestrator.storage.store import open_store

    if cluster is not None and s3_endpoint is not None:
        raise typer.BadParameter("the cluster names the endpoint; give --cluster or --s3-endpoint")
    if cluster is not None:
        storage = load_cluster(cluster).storage
        store = open_store(join_uri(storage.data, uri), storage.s3)
    else:
        store = open_store(uri, S3Spec(endpoint=s3_endpoint))
    with terminal.show_progress() as on_progress:
        found = index_shards(store, on_progress)
    terminal.out.print(
        f"{store.uri}: {found.num_samples:,} samples in {len(found.shards):,} shards; digest {found.digest}",
        markup=False,
        soft_wrap=True,
    )
