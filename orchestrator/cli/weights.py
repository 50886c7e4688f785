"""Commands about weights that exist: ``export``, ``import``, ``average``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import LAPTOP, ClusterOption, RunArgument, WeightsOption, run_uri

NameOption = Annotated[str, typer.Option(help="Name of the run that holds the result.")]
SetsOption = Annotated[
    list[str] | None,
    typer.Option("--evaluate-on", metavar="SET", help="Evaluation set to judge on; repeatable."),
]


def export(
    run: RunArgument,
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Folder to write; must be empty or new.")],
    cluster: ClusterOption = LAPTOP,
    format: Annotated[
        Literal["huggingface", "open_clip"], typer.Option(help="Whose from_pretrained or local-dir: opens it.")
    ] = "huggingface",
    weights: WeightsOption = "raw",
) -> None:
    """Write a run's last checkpoint, its tokenizer and its preprocessing for transformers or open_clip."""
    from orchestrator.runs.export import export_run
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.err.status(f"exporting {run}"):
        export_run(run_uri(run, place), dest, place, weights, format)
    terminal.out.print(f"exported {run} ({weights} weights, {format}) to {dest}", markup=False, soft_wrap=True)


def import_weights(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Weights file, folder, or the name of a model on the hub.")
    ],
    name: NameOption,
    cluster: ClusterOption = LAPTOP,
    variant: Annotated[
        Literal["clip", "openai", "corenet"] | None,
        typer.Option(help="Whose towers they are (model.variant), where the files do not say."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer folder or hub name; none: the one beside the weights, or OpenAI's.")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="concepts.parquet of a classifier; none: the one beside the weights.")
    ] = None,
    evaluate_on: SetsOption = None,
) -> None:
    """Make a run of weights from open_clip, OpenAI, Hugging Face or corenet; no pickle is executed."""
    from orchestrator.runs.import_weights import import_weights
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.err.status(f"importing {source}"):
        made = import_weights(
            source,
            name,
            place,
            variant=variant,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            evaluation_sets=evaluate_on or (),
        )
    model = made.plan.model
    terminal.print_pairs(
        [
            ("run", f"{name}: {made.plan.objective.name}, {made.plan.origin}"),
            ("model", f"{model.preset}, variant {model.variant}, {model.image_size} pixels"),
            ("checkpoint", made.checkpoint_uri),
        ]
    )
