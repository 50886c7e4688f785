"""What other machines see of a run, and how they stop it: over a real folder, with the real thread."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.env import SUBMISSION_ENV
from orchestrator.errors import StorageAccessError
from orchestrator.redaction import SECRETS_ENV
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.live import (
    STOP_FILE,
    LivePost,
    LiveRecord,
    named_submissions,
    read_live_record,
    read_ranks,
    request_stop,
)
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.tracker import RunStatus
from orchestrator.training.reports import PlaceReport

RECORD = LiveRecord("small", "small-1", RunStatus.RUNNING, 40, 100, 32, 64.0, "", "http://mlflow", "abc", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMISSION_ENV, "small-1")


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


def live_post(store: Store, stop: StopRequest, look: Callable[[], LiveRecord] = lambda: RECORD) -> LivePost:
    return LivePost(store, stop, look, {}, 2, interval_s=0.02)


def test_time_left_follows_from_the_last_speed_and_only_while_training() -> None:
    assert RECORD.seconds_left == 60 * 32 / 64
    assert replace(RECORD, status=RunStatus.KILLED).seconds_left is None
    assert replace(RECORD, samples_per_s=None).seconds_left is None
    assert RECORD.is_silent
    assert not replace(RECORD, written_at=time.time()).is_silent


def test_the_record_is_written_again_and_at_the_end(store: Store) -> None:
    now = [RECORD]
    with live_post(store, StopRequest(), lambda: now[0]):
        wait_until(lambda: read_live_record(store) == RECORD)
        now[0] = replace(RECORD, step=41)
        wait_until(lambda: read_live_record(store) == now[0])
        now[0] = replace(RECORD, status=RunStatus.FINISHED, step=100)
    assert read_live_record(store) == now[0]


def test_ranks_are_written_once_all_have_said_where_they_are(store: Store, submitted: None) -> None:
    places = {1: PlaceReport(1, "actor-b", "node")}
    with LivePost(store, StopRequest(), lambda: RECORD, places, 2, interval_s=0.02):
        wait_until(lambda: read_live_record(store) is not None)
        assert read_ranks(store, "small-1") == {}
        places[0] = PlaceReport(0, "actor-a", "node")
        wait_until(lambda: read_ranks(store, "small-1") == {0: "actor-a", 1: "actor-b"})
    assert read_ranks(store, "small-2") == {}, "of an earlier submission"


def test_a_request_for_this_submission_stops_it_even_when_it_came_first(store: Store, submitted: None) -> None:
    request_stop(store, "small-1", "somebody")
    stop = StopRequest()
    with live_post(store, stop):
        wait_until(lambda: stop.requested)
    assert stop.reason == "somebody"
    assert store.stat(STOP_FILE) is None


def test_a_request_for_an_earlier_start_is_taken_away(store: Store, submitted: None) -> None:
    request_stop(store, "small-0", "somebody")
    stop, looked = StopRequest(), threading.Event()

    def look() -> LiveRecord:
        looked.set()
        return RECORD

    with live_post(store, stop, look):
        assert store.stat(STOP_FILE) is None
        assert looked.wait(10)
    assert not stop.requested


def test_a_request_for_a_run_without_submission_counts_from_its_start_on(store: Store) -> None:
    request_stop(store, None, "too early")
    stop = StopRequest()
    with live_post(store, stop):
        assert store.stat(STOP_FILE) is None
        request_stop(store, None, "somebody")
        wait_until(lambda: stop.requested)
    assert stop.reason == "somebody"


def test_submissions_of_a_ray_that_is_gone_are_known_by_the_runs_files(store: Store, submitted: None) -> None:
    assert named_submissions(store) == []
    with live_post(store, StopRequest()):
        pass
    assert named_submissions(store) == ["small-1"]
    request_stop(store, "small-2", "somebody whose Ray ended before the run did")
    assert named_submissions(store) == ["small-1", "small-2"]


def test_storage_that_is_away_costs_the_view_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with live_post(open_store(str(tmp_path / "file")), StopRequest()):
        pass


def test_no_secret_reaches_the_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_THE_SITE", "correct-horse-battery")
    monkeypatch.setenv(SECRETS_ENV, "OTHER,KEY_OF_THE_SITE")
    with live_post(store, StopRequest(), lambda: replace(RECORD, reason="refused correct-horse-battery")):
        pass
    record = read_live_record(store)
    assert record is not None
    assert record.reason == "refused ***"


def test_a_record_of_another_version_is_named(store: Store) -> None:
    store.write_bytes("progress.json", json.dumps({"run": "small"}).encode())
    with pytest.raises(StorageAccessError, match="another version"):
        read_live_record(store)
