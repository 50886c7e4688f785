"""Commands about weights that exist: ``export``, ``promote``, ``import``, ``average``."""

from __future__ import annotations

import dataclasses
import json as json_format
from typing import Annotated, Literal

import typer

from orchestrator.cli import terminal
from orchestrator.cli.options import (
    LAPTOP,
    CheckpointOption,
    ClusterOption,
    JsonOption,
    RunArgument,
    WeightsOption,
    read_checkpoint,
    run_uri,
)

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
        Literal["huggingface", "open_clip", "corenet"],
        typer.Option(help="Who opens it: from_pretrained, local-dir:, or corenet (variant corenet alone)."),
    ] = "huggingface",
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = "last",
) -> None:
    """Write a run's checkpoint, its tokenizer and its preprocessing for transformers, open_clip or corenet."""
    from orchestrator.runs.export import export_run
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.show_activity(f"exporting {run}"):
        export_run(run_uri(run, place), dest, place, weights, format, read_checkpoint(checkpoint))
    terminal.out.print(f"exported {run} ({weights} weights, {format}) to {dest}", markup=False, soft_wrap=True)


def promote(
    run: RunArgument,
    alias: Annotated[str, typer.Option(help="Alias in MLflow's registry; it moves here from whoever has it.")],
    model: Annotated[
        str | None, typer.Option(help="Name of the registered model; none: the run's MLflow experiment.")
    ] = None,
    cluster: ClusterOption = LAPTOP,
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = "last",
) -> None:
    """Register a run's checkpoint as an MLflow model with an alias; the checkpoint is kept from then on."""
    from orchestrator.runs.promote import promote_run
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.show_activity(f"promoting {run}"):
        uri, chosen = run_uri(run, place), read_checkpoint(checkpoint)
        made = promote_run(uri, place, alias, model=model, weights=weights, checkpoint=chosen)
    terminal.print_pairs(
        [
            ("model", f"{made.model}, version {made.version}"),
            ("alias", made.alias),
            ("checkpoint", made.checkpoint_uri),
            ("load with", made.uri),
        ]
    )


def import_weights(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Weights file, folder, or the name of a model on the hub.")
    ],
    name: NameOption,
    cluster: ClusterOption = LAPTOP,
    variant: Annotated[
        Literal["clip", "openai", "corenet", "siglip"] | None,
        typer.Option(help="Whose towers they are (model.variant), where the files do not say."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer folder or hub name; none: the one beside the weights, or OpenAI's.")
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="concepts.parquet of a classifier, or corenet's keys with counts (.pkl, .json); none: the one "
            "beside the weights."
        ),
    ] = None,
    noun_table: Annotated[
        str | None, typer.Option(help="WordNet that a classifier's concepts were counted with; none: the packaged one.")
    ] = None,
    tagger: Annotated[
        str | None, typer.Option(help="Tagger that they were counted with; of concepts of mode 'nouns' alone.")
    ] = None,
    evaluate_on: SetsOption = None,
) -> None:
    """Make a run of weights from open_clip, OpenAI, Hugging Face or corenet; no pickle is executed."""
    from orchestrator.runs.import_weights import import_weights
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    with terminal.show_activity(f"importing {source}"):
        made = import_weights(
            source,
            name,
            place,
            variant=variant,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            noun_table=noun_table,
            tagger=tagger,
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


def average(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs (their last checkpoints), or RUN@STEP; names or URIs.")
    ],
    name: NameOption,
    cluster: ClusterOption = LAPTOP,
    method: Annotated[
        Literal["uniform", "greedy", "wise_ft"],
        typer.Option(help="The mean of all; of those that help, tried in turn; between two, at several alphas."),
    ] = "uniform",
    last: Annotated[int | None, typer.Option(min=2, help="Take this many last checkpoints of one run.")] = None,
    alphas: Annotated[
        str, typer.Option(help="wise_ft: shares of the second run, the best of which is written.")
    ] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1",
    probe: Annotated[
        Literal["zero_shot", "linear_probe"] | None, typer.Option(help="Whose mean accuracy chooses.")
    ] = None,
    weights: WeightsOption = "raw",
    evaluate_on: SetsOption = None,
    json: JsonOption = False,
) -> None:
    """Average checkpoints of one architecture into a run: last k, soups, WiSE-FT."""
    from orchestrator.evaluation.results import finite_or_null
    from orchestrator.runs.average import average_runs, find_parents
    from orchestrator.spec.load import load_cluster

    place = load_cluster(cluster)
    parents = find_parents([run_uri(run, place) for run in runs], place, last)
    with terminal.show_activity(f"averaging {len(parents)} checkpoints"):
        made = average_runs(
            parents,
            name,
            place,
            method=method,
            alphas=_read_alphas(alphas) if method == "wise_ft" else (),
            weights=weights,
            probe=probe,
            evaluation_sets=evaluate_on or (),
        )
    if json:
        document = finite_or_null(dataclasses.asdict(made) | {"plan": made.plan.name})
        typer.echo(json_format.dumps(document, indent=2, allow_nan=False))
        return
    if made.trials:
        rows = [(_say_shares(trial.shares), f"{trial.score:.4f}") for trial in made.trials]
        terminal.print_table(("shares", "accuracy"), rows)
        terminal.out.print()
    terminal.print_pairs(
        [
            ("run", f"{name}: {method} average, shares {_say_shares(made.shares)}"),
            ("parents", "\n".join(made.parents)),
            ("checkpoint", made.checkpoint_uri),
        ]
    )


def _say_shares(shares: tuple[float, ...]) -> str:
    return ", ".join(f"{share:.3g}" for share in shares)


def _read_alphas(text: str) -> list[float]:
    try:
        alphas = [float(part) for part in text.split(",")]
    except ValueError:
        alphas = []
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise typer.BadParameter(f"{text!r}: wanted numbers from 0 to 1, separated by commas", param_hint="--alphas")
    return alphas
