"""What other machines see of a job that prepares its data, and how they stop it: over real folders, without Ray."""

import time
from pathlib import Path

import pytest

from orchestrator.data.index import load_index
from orchestrator.data.scenes.write import write_scenes
from orchestrator.env import SUBMISSION_ENV
from orchestrator.errors import DatasetError, Interrupted
from orchestrator.runs.live import STOP_FILE, LivePost, LiveRecord, read_live_record, request_stop
from orchestrator.runs.live_preparation import live_preparation
from orchestrator.runs.pretrain import run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import PLAN_FILE
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.tracker import RunStatus

STEP = Progress("index scenes", 1, 4, "shards")


def run_store(cluster: ClusterSpec, name: str) -> Store:
    return open_store(join_uri(cluster.storage.runs, name))


def record_of(cluster: ClusterSpec, name: str) -> LiveRecord:
    record = read_live_record(run_store(cluster, name))
    assert record is not None
    return record


def test_a_run_is_seen_and_stopped_while_its_data_are_indexed(
    cluster: ClusterSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SUBMISSION_ENV, "indexes-1")
    write_scenes(str(tmp_path), num_train=24, num_eval=8, seed=0, samples_per_shard=4)
    request_stop(run_store(cluster, "indexes"), "indexes-1", "somebody")
    job = {
        "kind": "pretrain",
        "name": "indexes",
        "objective": {"name": "clip"},
        "data": {"kind": "shards", "train": str(tmp_path / "train")},
        "model": {"preset": "vit_nano_32"},
        "batch": {"global_size": 4},
        "budget": {"steps": 2},
        "optimizer": {"learning_rate": 1e-3},
    }

    def wait(progress: Progress) -> None:
        while "somebody" not in caplog.text:
            time.sleep(0.01)

    caplog.set_level("WARNING", "orchestrator")
    with pytest.raises(Interrupted, match="somebody, during: index"):
        run_pretrain(PretrainSpec.model_validate(job), cluster, on_progress=wait)
    record = record_of(cluster, "indexes")
    assert (record.status, record.unit, record.submission) == (RunStatus.KILLED, "shards", "indexes-1")
    assert 0 < record.step <= record.steps == 6
    assert load_index(open_store(str(tmp_path / "train"))) is None


def test_how_a_preparation_ended_is_written_and_a_run_that_follows_is_not_over(cluster: ClusterSpec) -> None:
    for name, is_all, status in (("all", True, RunStatus.FINISHED), ("first", False, RunStatus.RUNNING)):
        with live_preparation(name, cluster, None, is_all=is_all) as show:
            show(STEP)
        record = record_of(cluster, name)
        assert (record.status, record.step, record.steps, record.unit) == (status, 1, 4, "shards")
    with pytest.raises(DatasetError), live_preparation("wrong", cluster, None):
        raise DatasetError("no samples")
    assert (record_of(cluster, "wrong").status, record_of(cluster, "wrong").reason) == (RunStatus.FAILED, "no samples")


def test_a_late_request_is_left_for_the_run_that_follows(cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMISSION_ENV, "late-1")
    monkeypatch.setattr(LivePost, "_heed", lambda self: None)  # it comes after the last look
    store = run_store(cluster, "late")
    with live_preparation("late", cluster, None):
        request_stop(store, "late-1", "somebody")
    assert store.stat(STOP_FILE) is not None


def test_what_a_run_wrote_of_itself_is_left_alone(cluster: ClusterSpec) -> None:
    store = run_store(cluster, "begun")
    store.write_bytes(PLAN_FILE, b"{}")
    with live_preparation("begun", cluster, None) as show:
        show(STEP)
    assert read_live_record(store) is None
