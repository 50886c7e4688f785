"""The writer thread against a destination that goes away, refuses and breaks."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.tracking import shipping
from orchestrator.tracking.journal import METRICS, TEXT, Entry, Journal
from orchestrator.tracking.shipping import Delivery
from orchestrator.tracking.tracker import RunStatus
from orchestrator.tracking.writer import JournalTracker


class MemoryDestination:
    """Keeps what it gets; ``away`` makes every call fail, ``broken`` and ``refused`` name texts."""

    def __init__(self) -> None:
        self.away = False
        self.broken: set[str] = set()
        self.refused: set[str] = set()
        self.got: list[Entry] = []
        self.num_beats = 0
        self.delivered_20 = threading.Event()
        self.run_id: str | None = None

    def open(self) -> None:
        self.ping()
        self.run_id = "r1"

    def ping(self) -> None:
        if self.away:
            raise ConnectionError("away")

    def beat(self) -> None:
        self.ping()
        self.num_beats += 1

    def ship(self, entries: Sequence[Entry]) -> list[Entry]:
        self.ping()
        name = entries[0].fields.get("name")
        if name in self.broken:
            raise OSError("no room for artifacts")
        if name in self.refused:
            return list(entries)
        self.got.extend(entries)
        if len(self.got) >= 20:
            self.delivered_20.set()
        return []


def open_writer(folder: Path, destination: MemoryDestination, *, owns_run: bool = False) -> JournalTracker:
    return JournalTracker(Journal(folder / "w.jsonl"), destination, owns_run=owns_run, samples_system=False)


def test_every_kind_arrives_in_order(tmp_path: Path) -> None:
    destination = MemoryDestination()
    tracker = open_writer(tmp_path, destination, owns_run=True)
    tracker.log_params({"steps": 3, "on": True, "none": None, "list": [1, "a"], "text": "a"})
    tracker.log_metrics({"train/loss": 1.0}, 1)
    tracker.log_metrics({"train/loss": 2.0}, 2)
    tracker.log_text("plan.json", "{}")
    tracker.log_input("scenes", "s3://b/scenes", "d")
    tracker.log_checkpoint("s3://b/c", 2, {})
    tracker.log_evaluation("s3://b/c", 2, {"eval/a": 0.5}, "scenes", "d")
    tracker.finish(RunStatus.FINISHED)
    left = tracker.close(timeout_s=20)
    assert (left.entries, left.refused, left.dropped) == (0, 0, 0)
    kinds = [entry.kind for entry in destination.got]
    assert kinds == [
        "status", "params", "metrics", "metrics", "text", "input", "checkpoint", "evaluation", "status"
    ]  # fmt: skip
    assert destination.got[1].fields["values"] == {
        "steps": "3", "on": "true", "none": "null", "list": '[1, "a"]', "text": "a"
    }  # fmt: skip
    assert tracker.run_id() == "r1"


def test_a_destination_that_is_away_leaves_everything_for_the_next_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    destination = MemoryDestination()
    destination.away = True
    tracker = open_writer(tmp_path, destination)
    tracker.log_metrics({"train/loss": 1.0}, 1)
    left = tracker.close(timeout_s=0.5)
    assert left.entries == 1
    assert tracker.run_id() is None
    assert "1 entries" in caplog.text
    destination.away = False
    assert open_writer(tmp_path, destination).close(timeout_s=20).entries == 0
    assert [entry.fields["step"] for entry in destination.got] == [1]


def test_a_run_is_alive_while_a_long_journal_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "_HEARTBEAT_INTERVAL_S", 0.0)
    destination = MemoryDestination()
    destination.away = True
    tracker = open_writer(tmp_path, destination, owns_run=True)
    for number in range(20):
        tracker.log_text(f"text-{number}", "")
    destination.away = False
    assert destination.delivered_20.wait(timeout=30)
    assert destination.num_beats >= 20
    tracker.close()


def test_refused_entries_are_put_aside_and_hold_up_nobody(tmp_path: Path) -> None:
    destination = MemoryDestination()
    destination.refused = {"bad"}
    tracker = open_writer(tmp_path, destination)
    tracker.log_text("bad", "kept")
    tracker.log_text("good", "sent")
    left = tracker.close(timeout_s=20)
    assert (left.entries, left.refused) == (0, 1)
    assert [entry.fields["name"] for entry in destination.got] == ["good"]
    assert "kept" in (tmp_path / "w.refused.jsonl").read_text()


def test_a_damaged_line_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text("garbage\n")
    destination = MemoryDestination()
    tracker = open_writer(tmp_path, destination)
    tracker.log_text("good", "sent")
    assert tracker.close(timeout_s=20).refused == 1
    assert [entry.fields["name"] for entry in destination.got] == ["good"]


def test_an_entry_that_keeps_failing_is_put_aside_but_metrics_wait(tmp_path: Path) -> None:
    destination = MemoryDestination()
    destination.broken = {"bad"}
    journal = Journal(tmp_path / "w.jsonl")
    delivery = Delivery(journal, destination)
    journal.append(TEXT, name="bad", text="")
    journal.append(METRICS, step=1, values={})
    for _ in range(4):
        with pytest.raises(OSError, match="no room"):
            delivery.drain(lambda: False)
    delivery.drain(lambda: False)
    assert journal.refused == 1
    assert [entry.kind for entry in destination.got] == [METRICS]
    journal.append(METRICS, step=2, values={}, name="bad")
    for _ in range(8):
        with pytest.raises(OSError, match="no room"):
            delivery.drain(lambda: False)
    assert journal.refused == 1
    journal.close()


def test_an_entry_is_not_blamed_while_the_destination_is_away(tmp_path: Path) -> None:
    destination = MemoryDestination()
    destination.away = True
    journal = Journal(tmp_path / "w.jsonl")
    delivery = Delivery(journal, destination)
    journal.append(TEXT, name="plan", text="")
    for _ in range(8):
        with pytest.raises(ConnectionError):
            delivery.drain(lambda: False)
    destination.away = False
    delivery.drain(lambda: False)
    assert [entry.fields["name"] for entry in destination.got] == ["plan"]
    assert journal.refused == 0
    journal.close()
