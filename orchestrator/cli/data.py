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
