"""What is shown where nobody watches: few plain lines, whole ones, nothing styled."""

import logging
import os
import stat
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli import terminal
from orchestrator.runs.progress import Progress


def test_plain_progress_is_a_line_per_activity_and_one_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_progress() as on_progress:
        for done in range(101):
            on_progress(Progress("read captions", done * 100, 10_000, "samples"))
        on_progress(Progress("train", 1, None, "steps", "loss 5.545"))
    assert capsys.readouterr().err.splitlines() == [
        "read captions: 0/10,000 samples",
        "read captions: 10,000/10,000 samples",
        "train: 1 steps, loss 5.545",
    ]


def test_a_terminal_that_draws_no_bars_has_the_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    dumb = Console(file=shown, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setattr(terminal, "err", dumb)
    monkeypatch.setattr(terminal, "PLAIN_INTERVAL_S", 0.0)
    with terminal.show_progress() as on_progress:
        on_progress(Progress("train", 3, 10, "steps"))
        assert shown.getvalue() == "train: 3/10 steps\n"


def test_plain_progress_of_work_side_by_side_is_no_flood(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_progress() as on_progress:
        for done in range(101):
            for run in ("one", "two"):
                on_progress(Progress(run, done, 100, "steps"))
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_plain_progress_of_long_work_speaks_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "PLAIN_INTERVAL_S", 0.0)
    with terminal.show_progress() as on_progress:
        for done in range(3):
            on_progress(Progress("train", done, 10, "steps"))
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_an_activity_without_numbers_speaks_while_it_lasts_and_no_longer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.show_activity("reading the ledger"):
        pass
    assert capsys.readouterr().err == "", "it ended before anybody would have asked"
    monkeypatch.setattr(terminal, "PLAIN_INTERVAL_S", 0.01)
    with terminal.show_activity("judging clip"):
        shown = ""
        while shown.count("\n") < 2:
            shown += capsys.readouterr().err
    capsys.readouterr()
    assert shown.splitlines()[0] == "judging clip: 0 s"
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_tables_in_a_pipe_keep_long_cells_whole(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "s3://bucket/" + "long/" * 40 + "step-00000100"
    terminal.print_table(("run", "checkpoint"), [("clip", uri)])
    terminal.print_pairs([("checkpoint", uri), ("note", "[bold]is text, not style[/bold]")])
    shown = capsys.readouterr().out
    assert shown.count(uri) == 2
    assert "[bold]is text, not style[/bold]" in shown


def test_a_log_file_is_for_its_owner_alone() -> None:
    before = os.umask(0o022)
    try:
        terminal.start_logging(debug=False)
        logging.getLogger("orchestrator.test").debug("a record")
    finally:
        os.umask(before)
    file = terminal.log_file()
    assert file is not None
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert Path(file).read_text().endswith("DEBUG orchestrator.test: a record\n")
