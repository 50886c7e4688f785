"""The local place of a journal, with and without a home that can be written."""

import tempfile
from pathlib import Path

import pytest

from orchestrator.env import temporary_state_folder
from orchestrator.runs.folder import tracking_folder
from orchestrator.runs.sync import sync_runs
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.mlflow.runs import list_runs
from orchestrator.tracking.tracker import RunStatus, RunTarget


def test_without_a_home_a_journal_lies_in_a_temporary_folder_and_a_later_sync_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nohome")
    folder = tracking_folder("s3://bucket/runs/x", "key")
    assert folder == temporary_state_folder() / "tracking" / "key"
    assert f"{temporary_state_folder()}; what a server that is away has not got when this machine goes is lost" in (
        caplog.text
    )
    (tmp_path / "taken").write_text("")
    away = RunTarget(f"sqlite:///{tmp_path}/taken/mlflow.db", "unit", "x", "key")
    tracker = open_tracker(away, folder, "driver", owns_run=True)
    tracker.finish(RunStatus.FINISHED)
    assert tracker.close(timeout_s=0.5).entries > 0
    storage = {"data": "s3://bucket/data", "runs": "s3://bucket/runs"}
    workers = {"count": 1, "accelerator": "cpu"}
    cluster = ClusterSpec.model_validate({"name": "here", "workers": workers, "storage": storage})
    (told,) = sync_runs(cluster)
    assert told.startswith(f"{folder}: ")
    (tmp_path / "taken").unlink()
    assert list(sync_runs(cluster)) == []


def test_one_sync_delivers_a_trial_whose_journal_stands_before_its_comparison_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "taken").write_text("")
    uri = f"sqlite:///{tmp_path}/taken/mlflow.db"
    for target in (RunTarget(uri, "unit", "which", "z"), RunTarget(uri, "unit", "which--a-r0", "a", parent_key="z")):
        tracker = open_tracker(target, tracking_folder("s3://bucket/runs/x", target.run_key), "driver", owns_run=True)
        tracker.finish(RunStatus.FINISHED)
        assert tracker.close(timeout_s=0.5).entries > 0
    (tmp_path / "taken").unlink()
    storage = {"data": "s3://bucket/data", "runs": "s3://bucket/runs"}
    workers = {"count": 1, "accelerator": "cpu"}
    cluster = ClusterSpec.model_validate({"name": "here", "workers": workers, "storage": storage})
    assert list(sync_runs(cluster)) == []
    assert {run.name: run.status for run in list_runs(uri, "unit")} == {
        "which": "FINISHED",
        "which--a-r0": "FINISHED",
    }
