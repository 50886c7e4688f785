"""The command ``orchestrator``: its groups, its exit codes. Imports no framework, so that ``--help`` answers at once.

Exit codes: 0 done, 1 the work failed, 2 the user's input is wrong, 130 interrupted.
"""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from orchestrator.cli import compare, data, jobs, labels, launch, report, runs, submission, terminal, weights
from orchestrator.env import apply_quiet_env
from orchestrator.errors import Interrupted, OrchestratorError

app = typer.Typer(
    help="Train, evaluate and compare vision-language objectives on streamed image-text shards.",
    epilog="Example: orchestrator run jobs/clip-scenes.yaml --cluster cluster/laptop",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
app.add_typer(labels.app, name="label")
app.command(epilog="Example: orchestrator check jobs/clip-scenes.yaml --cluster cluster/laptop")(jobs.check)
app.command(epilog="Example: orchestrator plan jobs/clip-scenes.yaml --set batch.global_size=512 --json")(jobs.plan)
app.command(epilog="Example: orchestrator run jobs/clip-scenes.yaml --set budget.epochs=2 --set name=short")(jobs.run)
app.command(epilog="Example: orchestrator render jobs/synthetic.yaml --cluster cluster/kuberay -o job.yaml")(
    launch.render
)
app.command(epilog="Example: orchestrator submit jobs/clip-scenes.yaml --cluster cluster/gpu-cluster --follow")(
    submission.submit
)
app.command("jobs", epilog="Example: orchestrator jobs --cluster cluster/gpu-cluster --json")(submission.list_jobs)
app.command(epilog="Example: orchestrator logs clip-scenes-1 --cluster cluster/gpu-cluster --rank 3")(submission.logs)
app.command(epilog="Example: orchestrator stop clip-scenes-1 --cluster cluster/gpu-cluster --deadline 600")(
    submission.stop
)
app.command(epilog="Example: orchestrator doctor --cluster cluster/gpu-cluster --json")(submission.doctor)
app.command(epilog="Example: orchestrator evaluate clip-scenes --json")(runs.evaluate)
app.command(epilog="Example: orchestrator compare clip-scenes catlip-scenes --json")(compare.compare)
app.command(epilog="Example: orchestrator ledger clip-scenes --json")(runs.ledger)
app.command(epilog="Example: orchestrator report scenes-clip-siglip -o report.html")(report.report)
app.command(epilog="Example: orchestrator export clip-scenes exported/clip --format open_clip")(weights.export)
app.command(epilog="Example: orchestrator promote clip-scenes --alias champion")(weights.promote)
app.command("import", epilog="Example: orchestrator import ViT-B-32.pt --name clip-b32 --evaluate-on imagenet/val")(
    weights.import_weights
)
app.command(epilog="Example: orchestrator average clip-scenes --last 2 --name clip-scenes-mean")(weights.average)
app.command("runs", epilog="Example: orchestrator runs --cluster cluster/laptop --json")(runs.list_all)


@app.callback()
def _start(debug: Annotated[bool, typer.Option("--debug", help="Show all records and tracebacks.")] = False) -> None:
    apply_quiet_env()
    terminal.start_logging(debug)


def main() -> None:
    """Run the command line and exit. SIGTERM ends it as Ctrl-C does: what is half done is cleaned up."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.excepthook = terminal.report_defect
    try:
        app()
    except OrchestratorError as error:
        terminal.report_error(error)
        sys.exit(error.exit_code)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(f"{signal.Signals(number).name}: ended")


if __name__ == "__main__":
    main()
