"""The journal on a real disk: what is appended is read once, in order, after every kind of end."""

import itertools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.tracking.journal import DAMAGED, METRICS, STATUS, TEXT, Entry, Journal


def fill(journal: Journal, steps: range) -> None:
    for step in steps:
        journal.append(METRICS, step=step, values={"train/loss": float(step)})


def steps_of(entries: list[Entry]) -> list[int]:
    return [entry.fields["step"] for entry in entries if entry.kind == METRICS]


def test_entries_come_back_in_order_and_only_until_they_are_shipped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl")
    fill(journal, range(5))
    entries = journal.read()
    assert steps_of(entries) == [0, 1, 2, 3, 4]
    journal.mark_shipped(entries[2].end)
    assert steps_of(journal.read()) == [3, 4]
    assert journal.close() == 2


def test_a_new_writer_goes_on_behind_what_was_shipped(tmp_path: Path) -> None:
    first = Journal(tmp_path / "worker.jsonl")
    fill(first, range(3))
    first.mark_shipped(first.read()[0].end)
    first.close()
    second = Journal(tmp_path / "worker.jsonl")
    fill(second, range(3, 5))
    assert steps_of(second.read()) == [1, 2, 3, 4]
    second.close()


def test_a_line_longer_than_one_read_comes_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl")
    journal.append(TEXT, name="plan.json", text="x" * 10_000)
    fill(journal, range(1))
    [entry] = journal.read(max_bytes=100)
    assert entry.fields["text"] == "x" * 10_000
    journal.close()


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl")
    journal.append(METRICS, step=1, values={"a": float("nan"), "b": float("-inf")})
    values = journal.read()[0].fields["values"]
    assert values["a"] != values["a"]
    assert values["b"] == float("-inf")
    journal.close()


def test_a_torn_last_line_is_cut_off_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "worker.jsonl"
    journal = Journal(path)
    fill(journal, range(2))
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "metrics", "st')
    with caplog.at_level(logging.WARNING):
        journal = Journal(path)
    assert "unfinished entry" in caplog.text
    fill(journal, range(2, 3))
    assert steps_of(journal.read()) == [0, 1, 2]
    journal.close()


def test_a_damaged_line_is_an_entry_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "worker.jsonl"
    path.write_bytes(b"not json\n[1]\n")
    journal = Journal(path)
    fill(journal, range(1))
    assert [entry.kind for entry in journal.read()] == [DAMAGED, DAMAGED, METRICS]
    journal.close()


def test_a_full_journal_thins_metrics_then_stops_and_counts_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl", cap_bytes=10_000)
    fill(journal, range(2_000))
    steps = steps_of(journal.read())
    assert journal.unshipped_bytes < 10_200
    assert len(steps) + journal.dropped == 2_000
    jumps = [after - before for before, after in itertools.pairwise(steps)]
    assert set(jumps) == {1, 10}
    journal.append(STATUS, status="FINISHED", reason="")
    assert journal.read()[-1].kind == STATUS
    journal.close()


def test_a_journal_that_empties_takes_everything_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl", cap_bytes=2_000)
    fill(journal, range(500))
    journal.mark_shipped(journal.read()[-1].end)
    dropped = journal.dropped
    fill(journal, range(500, 510))
    assert steps_of(journal.read()) == list(range(500, 510))
    assert journal.dropped == dropped
    journal.close()


def test_a_delivered_journal_starts_again_from_empty(tmp_path: Path) -> None:
    path = tmp_path / "worker.jsonl"
    journal = Journal(path)
    journal.append(TEXT, name="big", text="x" * 2**23)
    fill(journal, range(1))
    journal.mark_shipped(journal.read()[0].end)
    assert path.stat().st_size > 2**23
    journal.mark_shipped(journal.read()[-1].end)
    assert path.stat().st_size == 0
    fill(journal, range(1, 2))
    journal.close()
    reopened = Journal(path)
    assert steps_of(reopened.read()) == [1]
    reopened.close()


def test_an_offset_beyond_an_emptied_file_is_no_offset(tmp_path: Path) -> None:
    path = tmp_path / "worker.jsonl"
    (tmp_path / "worker.offset").write_text("9000000")
    journal = Journal(path)
    fill(journal, range(1))
    assert steps_of(journal.read()) == [0]
    journal.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl")
    with pytest.raises(TrackingError, match="in use by another process") as caught:
        Journal(tmp_path / "worker.jsonl")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    journal.close()
    Journal(tmp_path / "worker.jsonl").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"file/x/worker.jsonl cannot be written"):
        Journal(tmp_path / "file" / "x" / "worker.jsonl")


def test_appending_to_a_closed_journal_is_counted_not_raised(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "worker.jsonl")
    journal.close()
    fill(journal, range(1))
    assert journal.dropped == 1
    assert journal.read() == []


def test_a_full_disk_is_counted_not_raised_and_leaves_no_torn_line(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.tracking.journal import Journal, METRICS\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for step in range(100): journal.append(METRICS, step=step, values={})\n"
        "print(len(journal.read()), journal.dropped)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "worker.jsonl")], capture_output=True, text=True, check=True
    )
    kept, dropped = map(int, answer.stdout.split())
    assert kept > 0
    assert kept + dropped == 100
    assert len((tmp_path / "worker.jsonl").read_bytes().splitlines()) == kept


def test_a_killed_writer_loses_nothing_that_it_appended(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.tracking.journal import Journal, METRICS\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in range(1000): journal.append(METRICS, step=step, values={'a': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "worker.jsonl")], check=False)
    assert died.returncode == -signal.SIGKILL
    journal = Journal(tmp_path / "worker.jsonl")
    assert steps_of(journal.read()) == list(range(1000))
    journal.close()


def test_no_secret_reaches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", 'pass"word-123')
    journal = Journal(tmp_path / "worker.jsonl")
    journal.append(STATUS, status="FAILED", reason='login with pass"word-123 at https://me:hunter2@host/x failed')
    written = (tmp_path / "worker.jsonl").read_text()
    assert "word-123" not in written
    assert "hunter2" not in written
    assert json.loads(written)["reason"] == "login with *** at https://***@host/x failed"
    journal.close()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    Journal(tmp_path / "worker.jsonl").close()
    assert os.stat(tmp_path / "worker.jsonl").st_mode & 0o077 == 0
