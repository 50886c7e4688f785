"""Secrets stay out of what a process says: records of the driver, of ranks and of log files, and errors."""

import io
import json
import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from orchestrator.cli import main, terminal
from orchestrator.env import setup_logging
from orchestrator.errors import StorageAccessError
from orchestrator.redaction import SECRETS_ENV, redact

SECRET = 'n0t-"for"-anyone\\42'


@pytest.fixture(autouse=True)
def own_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(SECRETS_ENV, "OTHER,KEY_OF_THE_SITE")
    monkeypatch.setenv("KEY_OF_THE_SITE", SECRET)
    logger = logging.getLogger("orchestrator")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def fail() -> StorageAccessError:
    """An error that a library made, with the secret in its text, behind one of ours that repeats it."""
    try:
        try:
            raise OSError(f"403 for key {SECRET}")
        except OSError as error:
            raise StorageAccessError(f"s3://me:hunter2@host/bucket refuses {SECRET}") from error
    except StorageAccessError as error:
        return error


def test_plain_and_encoded_values_and_users_of_uris_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "test")
    assert redact(f"a {SECRET} b {json.dumps(SECRET)} test") == 'a *** b "***" test'
    assert redact(f"https://host/x?key={quote(SECRET, safe='')}") == "https://host/x?key=***"
    assert redact("https://me:hunter2@host/x") == "https://***@host/x"
    assert redact("https://me:hunter@2@host/x, s3://runs/run@100") == "https://***@host/x, s3://runs/run@100"


def test_the_name_of_a_user_is_an_ordinary_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRETS_ENV, "MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "orchestrator")
    assert redact("orchestrator run") == "orchestrator run"


@pytest.mark.parametrize("rank", [None, 3])
def test_records_of_driver_and_ranks_carry_no_secret(rank: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    setup_logging(rank=rank)
    logging.getLogger("orchestrator.test").warning("refused: %s", SECRET, exc_info=fail())
    said = stderr.getvalue()
    assert said.startswith("refused: ***\n" if rank is None else "[rank 3] refused: ***\n")
    assert "OSError: 403 for key ***" in said
    assert SECRET not in said


@pytest.mark.parametrize("at_terminal", [False, True])
def test_neither_the_terminal_nor_the_log_file_of_a_command_shows_a_secret(
    at_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(terminal, "err", terminal.Console(file=stderr, force_terminal=at_terminal, width=1000))
    terminal.start_logging(debug=True)
    logging.getLogger("orchestrator.test").info("key %s", SECRET)
    terminal.report_error(fail())
    file = terminal.log_file()
    assert file is not None
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stderr.getvalue())
    for text in (shown, Path(file).read_text()):
        assert "key ***" in text
        assert "OSError: 403 for key ***" in text
        assert SECRET not in text
        assert "hunter2" not in text
    assert "error: s3://***@host/bucket refuses ***" in shown


def test_a_finding_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_finding("data", False, str(fail()))
    assert capsys.readouterr().out == "✗ data: s3://***@host/bucket refuses ***\n"


def test_a_traceback_that_nobody_expected_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash() -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(main, "app", crash)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # else this process would end by another name
    with pytest.raises(KeyError) as caught:
        main.main()
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("KeyError: '***'\n")
