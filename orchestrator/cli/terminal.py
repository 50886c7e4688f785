"""What a person sees: results on stdout, progress, records and errors on stderr; plain lines where nobody watches.

Owns consoles, progress displays and the log file of a command. Decides nothing about the work.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from orchestrator.env import setup_logging, state_folder, temporary_state_folder
from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.redaction import RedactingFormatter, redact
from orchestrator.runs.progress import OnProgress, Progress

PLAIN_INTERVAL_S = 10.0
_MOST_LOG_FILES = 50

# A pipe is nobody's terminal and has nobody's width: it gets whole lines.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, highlight=False)
logger = logging.getLogger(__name__)


def start_logging(debug: bool) -> None:
    """Records go to stderr from INFO up (all with ``debug``) and, with tracebacks, to a log file."""
    setup_logging(logging.DEBUG)
    root = logging.getLogger("orchestrator")
    if _draws():  # a bare stream handler would write through the middle of a progress bar
        root.handlers[:] = [RichHandler(console=err, show_path=False, show_level=False, markup=False)]
        root.handlers[0].setFormatter(RedactingFormatter())
    root.handlers[0].setLevel(logging.DEBUG if debug else logging.INFO)
    file_handler = _PrivateFileHandler(_new_log_file(), delay=True, encoding="utf-8")
    file_handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(file_handler)


def log_file() -> str | None:
    """The log file of this command, if it has one."""
    handlers = logging.getLogger("orchestrator").handlers
    return next((handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)), None)


def report_error(error: OrchestratorError) -> None:
    """One clear message on stderr; the traceback goes to the log file (and to stderr with ``--debug``)."""
    logger.debug("%s", type(error).__name__, exc_info=error)
    prefix = "stopped" if isinstance(error, Interrupted) else "error"
    err.print(redact(f"{prefix}: {error}"), style="red", markup=False, soft_wrap=True)
    if error.exit_code == 1:
        err.print(f"log file: {log_file()}", markup=False, soft_wrap=True)


def report_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody foresaw, as Python itself shows it, but without secrets: for ``sys.excepthook``."""
    err.print(redact("".join(traceback.format_exception(kind, error, trace))), end="", markup=False, soft_wrap=True)


@contextmanager
def show_progress() -> Iterator[OnProgress]:
    """Bars at a terminal; elsewhere a line per activity, every ten seconds and at its end."""
    if not _draws():
        yield _Lines().show
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=err) as bars:
        yield _BarPerActivity(bars).show


@contextmanager
def show_activity(activity: str) -> Iterator[None]:
    """What is done within, and for how long: turning at a terminal; elsewhere a line every ten seconds."""
    if _draws():
        with err.status(activity):
            yield
        return
    ended, started_s = threading.Event(), time.monotonic()

    def say() -> None:
        while not ended.wait(PLAIN_INTERVAL_S):
            err.print(f"{activity}: {time.monotonic() - started_s:,.0f} s", markup=False, soft_wrap=True)

    thread = threading.Thread(target=say, name="activity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _draws() -> bool:
    """Whether somebody sees a bar move: a dumb terminal, such as an editor's shell, would have nothing but its end."""
    return err.is_terminal and not err.is_dumb_terminal


class _PrivateFileHandler(logging.FileHandler):
    """A file for its owner alone: records name buckets, hosts and paths."""

    def _open(self) -> TextIOWrapper:
        make_private = partial(os.open, mode=0o600)
        return open(self.baseFilename, "a", encoding=self.encoding, opener=make_private)


class _BarPerActivity:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._ids: dict[str, int] = {}

    def show(self, progress: Progress) -> None:
        task = self._ids.get(progress.activity)
        if task is None:
            task = self._bars.add_task(progress.activity, total=progress.total, note="")
            self._ids[progress.activity] = task
        # The type of ids is rich's own NewType over int.
        self._bars.update(task, completed=progress.done, total=progress.total, note=progress.note)  # type: ignore[arg-type]


class _Lines:
    def __init__(self) -> None:
        self._shown_s: dict[str, float] = {}  # several go on at once in a comparison

    def show(self, progress: Progress) -> None:
        now_s = time.monotonic()
        shown_s = self._shown_s.get(progress.activity)
        is_news = shown_s is None or progress.done == progress.total
        if shown_s is not None and not is_news and now_s - shown_s < PLAIN_INTERVAL_S:
            return
        self._shown_s[progress.activity] = now_s
        of_total = "" if progress.total is None else f"/{progress.total:,}"
        note = f", {progress.note}" if progress.note else ""
        line = f"{progress.activity}: {progress.done:,}{of_total} {progress.unit}".rstrip()
        err.print(line + note, markup=False, soft_wrap=True)


def print_finding(subject: str, holds: bool, detail: str) -> None:
    """What one look found, with a mark."""
    mark, style = ("✓", "green") if holds else ("✗", "red")
    out.print(redact(f"{mark} {subject}: {detail}"), style=style, markup=False, soft_wrap=True)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Headings on the left, their text on the right."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, text in pairs:
        grid.add_row(heading, text)
    out.print(grid, markup=False)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with a line of headings."""
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)


def _new_log_file() -> Path:
    folder = state_folder() or temporary_state_folder()
    for old in sorted(folder.glob("*.log"))[:-_MOST_LOG_FILES]:
        old.unlink(missing_ok=True)
    return folder / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
