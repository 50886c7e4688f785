"""The command line itself: quick help with examples, exit codes, messages without tracebacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import StorageAccessError

HEAVY = ("torch", "ray", "mlflow", "pyarrow", "transformers", "boto3", "deepspeed", "numpy")
COMMANDS = (
    "check",
    "plan",
    "run",
    "submit",
    "jobs",
    "logs",
    "stop",
    "doctor",
    "evaluate",
    "compare",
    "report",
    "export",
    "promote",
    "import",
    "average",
    "runs",
    "data scenes",
    "data index",
    "data verify",
    "label concepts",
)


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200"}


def orchestrator(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_imports_no_framework() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from orchestrator.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_every_help_has_an_example_that_names_the_command(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert f"Example: orchestrator {command}".rstrip() in shown.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_table_is_there_and_refuses_unknown_options(command: str) -> None:
    assert CliRunner().invoke(app, [*command.split(), "--no-such-option"]).exit_code == 2


def test_wrong_input_is_one_message_without_a_traceback_and_exits_with_2(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = orchestrator(environment, "plan", str(tmp_path / "no.yaml"), "--cluster", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}/no.yaml: cannot be read")
    assert "Traceback" not in done.stderr


def test_a_job_of_another_kind_is_refused_by_a_command_that_prepares(environment: dict[str, str]) -> None:
    done = orchestrator(environment, "label", "concepts", "jobs/smoke/clip-scenes.yaml")
    assert done.returncode == 2
    assert "kind is 'pretrain'; orchestrator label concepts runs jobs of kind 'prepare'" in done.stderr


@pytest.mark.parametrize("command", ["render jobs/synthetic.yaml --cluster cluster/kuberay", "report x"])
def test_a_page_or_manifest_is_written_to_no_bucket(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--output", "s3://bucket/x"])
    assert isinstance(done.exception, StorageAccessError)
    assert "s3://bucket/x is a URI" in str(done.exception)


def test_debug_shows_the_traceback_and_the_log_file_has_it_anyway(tmp_path: Path, environment: dict[str, str]) -> None:
    done = orchestrator(environment, "--debug", "plan", str(tmp_path / "no.yaml"))
    assert "Traceback" in done.stderr
    orchestrator(environment, "plan", str(tmp_path / "no.yaml"))
    logs = list((tmp_path / "state" / "vl-orchestrator").glob("*.log"))
    assert len(logs) == 2
    assert all("JobFileError" in log.read_text() for log in logs)


def test_a_home_that_takes_no_files_does_not_stop_a_command(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    done = orchestrator(environment, "plan", str(tmp_path / "no.yaml"))
    assert done.returncode == 2


def test_a_misspelt_key_is_said_with_file_path_and_choice(tmp_path: Path, environment: dict[str, str]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("kind: pretrain\nname: x\nbacth: {global_size: 1}\n")
    done = orchestrator(environment, "run", str(job))
    assert done.returncode == 2
    assert f"{job}: bacth: unknown key 'bacth'; did you mean 'batch'?" in done.stderr
