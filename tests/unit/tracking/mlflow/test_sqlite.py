"""A run's whole record in the embedded default: MLflow over a SQLite file."""

import json
import logging
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.errors import JobFileError, TrackingAccessError, TrackingError
from orchestrator.tracking import shipping
from orchestrator.tracking.journal import Journal
from orchestrator.tracking.mlflow import destination
from orchestrator.tracking.mlflow import open as mlflow_open
from orchestrator.tracking.mlflow.client import check_tracking_uri, connect
from orchestrator.tracking.mlflow.open import open_tracker, sync_journals
from orchestrator.tracking.mlflow.runs import check_tracking, close_dead_runs, list_runs
from orchestrator.tracking.tracker import TAG_HEARTBEAT, TAG_OBJECTIVE, TAG_REASON, RunStatus, RunTarget

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

EXPERIMENT = "unit"
Target = Callable[[str], RunTarget]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/sub/mlflow.db"


@pytest.fixture
def target(uri: str, tmp_path: Path) -> Target:
    return lambda name: RunTarget(uri, EXPERIMENT, name, f"key-{tmp_path.name}", {TAG_OBJECTIVE: "clip"})


def the_run(uri: str, run_id: str | None) -> Run:
    assert run_id is not None
    return connect(uri).get_run(run_id)


def test_driver_and_worker_write_one_run(
    uri: str, target: Target, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver = open_tracker(target("whole"), tmp_path, "driver", owns_run=True)
    run_id = driver.run_id(timeout_s=60)
    worker = open_tracker(target("whole"), tmp_path, "worker", owns_run=False, samples_system=True)
    assert worker.run_id(timeout_s=60) == run_id
    worker.log_params({"batch.global_size": 8})
    for step in range(1, 4):
        worker.log_metrics({"train/loss": 1.0 / step, "train/steps": float(step)}, step)
    worker.log_text("plan.json", '{"name": "whole"}')
    worker.log_input("scenes", "s3://bucket/scenes", "d" * 64)
    worker.log_checkpoint("s3://bucket/c3", 3, {"heldout/loss": 0.5})
    worker.log_evaluation("s3://bucket/c3", 3, {"eval/s/linear_probe/shape/accuracy": 0.9}, "scenes", "e" * 64)
    worker.log_removal("s3://bucket/c3")
    worker.log_removal("s3://bucket/never-recorded")
    assert worker.close(timeout_s=60).entries == 0
    driver.finish(RunStatus.FINISHED)
    assert driver.close(timeout_s=60).entries == 0

    run = the_run(uri, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"batch.global_size": "8"}
    assert run.data.metrics["train/loss"] == pytest.approx(1 / 3)
    assert run.data.metrics["system/process_memory_bytes"] > 0
    [dataset] = run.inputs.dataset_inputs
    assert (dataset.dataset.name, "d" * 64 in dataset.dataset.source) == ("scenes", True)
    client = connect(uri)
    assert [file.path for file in client.list_artifacts(run_id)] == ["plan.json"]
    assert run.info.artifact_uri.startswith("file://")
    [output] = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.tags["checkpoint_uri"], model.tags["deleted"]) == ("s3://bucket/c3", "true")
    linked = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert linked == {"heldout/loss": (0.5, None), "eval/s/linear_probe/shape/accuracy": (0.9, "scenes")}

    [row] = [row for row in list_runs(uri, EXPERIMENT) if row.name == "whole"]
    assert (row.status, row.objective, row.steps, row.checkpoint_uri) == ("FINISHED", "clip", 3, "s3://bucket/c3")
    assert row.evaluation == {"eval/s/linear_probe/shape/accuracy": 0.9}
    assert row.reason is None
    noise = capfd.readouterr()
    assert (noise.out, noise.err) == ("", "")


def test_a_name_that_mlflow_refuses_loses_neither_its_value_nor_its_neighbours(
    uri: str, target: Target, tmp_path: Path
) -> None:
    tracker = open_tracker(target("names"), tmp_path, "driver", owns_run=True)
    tracker.log_metrics({"heldout/loss": 1.0, "ledger/lang=en (new)/missing": 7.0}, 1)
    run_id = tracker.run_id(timeout_s=60)
    left = tracker.close(timeout_s=60)
    assert (left.entries, left.refused) == (0, 0)
    assert the_run(uri, run_id).data.metrics == {"heldout/loss": 1.0, "ledger/lang-en -new-/missing": 7.0}


def test_parameters_with_a_user_s_own_keys_are_recorded(uri: str, target: Target, tmp_path: Path) -> None:
    values = {"layouts.s3://bucket/val.split": "a", "caption_weights.caption#1": 2.0, "x" * 300: 1, "seed": 0}
    tracker = open_tracker(target("keys"), tmp_path, "driver", owns_run=True)
    tracker.log_params(values)
    tracker.log_params(values | {"caption_weights.caption#1": 3.0})
    run_id = tracker.run_id(timeout_s=60)
    left = tracker.close(timeout_s=60)
    assert (left.entries, left.refused) == (0, 0)
    run = the_run(uri, run_id)
    (long,) = (name for name in run.data.params if name.startswith("x"))
    assert run.data.params == {
        "layouts.s3:/bucket/val.split": "a",
        "caption_weights.caption-1": "2.0",
        long: "1",
        "seed": "0",
    }
    assert run.data.tags["changed.caption_weights.caption-1"] == "3.0"


def test_a_refused_parameter_is_put_aside_alone(
    uri: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(destination, "accepted_name", lambda name: name)
    tracker = open_tracker(target("refused"), tmp_path, "driver", owns_run=True)
    tracker.log_params({"a": 1, "b": 2, "c#": 3, "d": 4, "e": 5})
    run_id = tracker.run_id(timeout_s=60)
    left = tracker.close(timeout_s=60)
    assert (left.entries, left.refused) == (0, 1)
    assert sorted(the_run(uri, run_id).data.params) == ["a", "b", "d", "e"]
    assert json.loads((tmp_path / "driver.refused.jsonl").read_text())["values"] == {"c#": "3"}
    assert "1 refused by the server" in caplog.text
    assert "--sync" not in caplog.text


def test_a_resumed_run_goes_on_in_the_same_record(uri: str, target: Target, tmp_path: Path) -> None:
    first = open_tracker(target("resumed"), tmp_path, "driver", owns_run=True)
    first.log_params({"workers": 2, "seed": 0})
    first.log_checkpoint("s3://b/c1", 1, {})
    first.finish(RunStatus.FAILED, "worker lost")
    run_id = first.run_id(timeout_s=60)
    assert first.close(timeout_s=60).entries == 0
    failed = the_run(uri, run_id)
    assert (failed.info.status, failed.data.tags[TAG_REASON]) == ("FAILED", "worker lost")

    second = open_tracker(target("resumed"), tmp_path / "other-node", "driver", owns_run=True)
    assert second.run_id(timeout_s=60) == run_id
    second.log_params({"workers": 4, "seed": 0})
    second.log_checkpoint("s3://b/c1", 1, {})
    assert second.close(timeout_s=60).entries == 0
    running = the_run(uri, run_id)
    assert (running.info.status, running.data.tags[TAG_REASON]) == ("RUNNING", "")
    assert running.data.params["workers"] == "2"
    assert running.data.tags["changed.workers"] == "4"
    assert "changed.seed" not in running.data.tags
    assert len(running.outputs.model_outputs) == 1


def test_entries_that_come_twice_are_recorded_once(uri: str, target: Target, tmp_path: Path) -> None:
    tracker = open_tracker(target("twice"), tmp_path, "driver", owns_run=True)
    for step in range(10):
        tracker.log_metrics({"train/loss": float("nan") if step == 5 else float(step)}, step)
    tracker.log_checkpoint("s3://b/c9", 9, {"heldout/loss": 1.0})
    tracker.log_input("scenes", "s3://b/s", "d")
    run_id = tracker.run_id(timeout_s=60)
    assert tracker.close(timeout_s=60).entries == 0
    (tmp_path / "driver.offset").write_text("0")  # as if the process had died before it could note the delivery
    [left] = sync_journals(tmp_path)
    assert (left.entries, left.refused) == (0, 0)
    client = connect(uri)
    history = client.get_metric_history(run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(10))
    assert [point.step for point in history if point.value != point.value] == [5]
    run = the_run(uri, run_id)
    assert len(run.outputs.model_outputs) == 1
    assert len(run.inputs.dataset_inputs) == 1


def test_a_version_is_registered_once_and_its_alias_moves(uri: str, target: Target, tmp_path: Path) -> None:
    tracker = open_tracker(target("version"), tmp_path, "driver", owns_run=True)
    tracker.log_checkpoint("s3://b/c1", 1, {})
    tracker.log_version("s3://b/c1", 1, "which", "champion-s-accuracy", "s3://b")
    run_id = tracker.run_id(timeout_s=60)
    assert tracker.close(timeout_s=60).entries == 0
    (tmp_path / "driver.offset").write_text("0")  # delivered twice
    assert [(left.entries, left.refused) for left in sync_journals(tmp_path)] == [(0, 0)]
    client = connect(uri)
    first = client.get_model_version_by_alias("which", "champion-s-accuracy")
    assert (str(first.version), first.run_id, first.tags["orchestrator.checkpoint"]) == ("1", run_id, "s3://b/c1")
    assert len(client.search_model_versions("name = 'which'")) == 1
    later = open_tracker(target("version"), tmp_path, "champion", owns_run=False)
    later.log_version("s3://b/c2", 2, "which", "champion-s-accuracy", "s3://b")
    assert later.close(timeout_s=60).entries == 0
    assert (
        client.get_model_version_by_alias("which", "champion-s-accuracy").tags["orchestrator.checkpoint"] == "s3://b/c2"
    )


def test_a_version_of_a_run_that_was_made_anew_in_the_same_folder_is_its_own(uri: str, tmp_path: Path) -> None:
    made = []
    for key in ("first", "again"):  # the folder was removed in between, and with it the run's key
        tracker = open_tracker(RunTarget(uri, EXPERIMENT, "anew", key), tmp_path / key, "driver", owns_run=True)
        tracker.log_version("s3://b/c1", 1, "anew", "best", "s3://b")
        run_id = tracker.run_id(timeout_s=60)
        assert tracker.close(timeout_s=60).entries == 0
        made.append((run_id, connect(uri).get_model_version_by_alias("anew", "best").run_id))
    assert all(wanted == found for wanted, found in made)


def test_a_deleted_experiment_is_refused_with_how_to_restore_it(uri: str) -> None:
    client = connect(uri)
    number = client.create_experiment("left")
    assert check_tracking(uri, "left")
    assert check_tracking(uri, "to come")
    client.delete_experiment(number)
    with pytest.raises(TrackingAccessError, match=rf"'left' among its deleted ones; .*--experiment-id {number}\)"):
        check_tracking(uri, "left")
    assert check_tracking(f"sqlite:///{Path(uri.removeprefix('sqlite:///')).with_name('none.db')}", "left")


def test_a_wrong_metric_is_put_aside_and_its_neighbours_arrive(uri: str, target: Target, tmp_path: Path) -> None:
    tracker = open_tracker(target("wrong"), tmp_path, "driver", owns_run=True)
    for step in range(9):
        tracker.log_metrics({"train/loss": 0.0}, "four" if step == 4 else step)  # type: ignore[arg-type]
    run_id = tracker.run_id(timeout_s=60)
    left = tracker.close(timeout_s=60)
    assert (left.entries, left.refused) == (0, 1)
    steps = [point.step for point in connect(uri).get_metric_history(run_id, "train/loss")]
    assert sorted(steps) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_dead_run_is_closed_and_a_restart_revives_it(uri: str, target: Target, tmp_path: Path) -> None:
    tracker = open_tracker(target("dead"), tmp_path, "driver", owns_run=True)
    run_id = tracker.run_id(timeout_s=60)
    tracker.close(timeout_s=60)  # closed without finish(): as a process that died
    assert "dead" not in close_dead_runs(uri, EXPERIMENT)
    client = connect(uri)
    client.set_tag(run_id, TAG_HEARTBEAT, str(int(time.time()) - 500))
    foreign = client.create_run(the_run(uri, run_id).info.experiment_id, run_name="not ours")
    assert "dead" in close_dead_runs(uri, EXPERIMENT)
    run = the_run(uri, run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags[TAG_REASON].startswith("heartbeat stale since 20")
    assert the_run(uri, foreign.info.run_id).info.status == "RUNNING"
    again = open_tracker(target("dead"), tmp_path, "driver", owns_run=True)
    again.close(timeout_s=60)
    assert the_run(uri, run_id).info.status == "RUNNING"


def test_a_live_run_that_was_taken_for_dead_is_set_running_at_the_next_beat(
    uri: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_HEARTBEAT_INTERVAL_S", 0.2)
    monkeypatch.setattr(shipping, "_SHIP_INTERVAL_S", 0.2)
    tracker = open_tracker(target("slept"), tmp_path, "driver", owns_run=True)
    run_id = tracker.run_id(timeout_s=60)
    assert run_id is not None
    client = connect(uri)
    client.set_tag(run_id, TAG_REASON, "heartbeat stale since then")
    client.set_terminated(run_id, status=RunStatus.KILLED.value)
    end_s = time.monotonic() + 30
    while the_run(uri, run_id).data.tags[TAG_REASON] and time.monotonic() < end_s:
        time.sleep(0.1)
    run = the_run(uri, run_id)
    assert (run.info.status, run.data.tags[TAG_REASON]) == ("RUNNING", "")
    tracker.finish(RunStatus.FINISHED)
    tracker.close(timeout_s=60)
    assert the_run(uri, run_id).info.status == "FINISHED"


def test_a_writer_waits_for_the_command_that_holds_its_journal(
    uri: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_open, "_LOCK_PATIENCE_S", 0.3)
    held = Journal(tmp_path / "evaluate.jsonl")
    with pytest.raises(TrackingError, match=r"in use by another process and was not given up within 0\.3 s"):
        open_tracker(target("waits"), tmp_path, "evaluate", owns_run=False)
    monkeypatch.setattr(mlflow_open, "_LOCK_PATIENCE_S", 60.0)
    threading.Timer(0.3, held.close).start()
    open_tracker(target("waits"), tmp_path, "evaluate", owns_run=False).close(timeout_s=0.1)


def test_a_worker_that_comes_first_waits_for_the_owner(uri: str, target: Target, tmp_path: Path) -> None:
    worker = open_tracker(target("joined"), tmp_path, "worker", owns_run=False)
    worker.log_metrics({"train/loss": 1.0}, 1)
    assert worker.close(timeout_s=3).entries == 1
    with pytest.raises(TrackingError, match="no record in experiment unit yet") as caught:
        sync_journals(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    driver = open_tracker(target("joined"), tmp_path, "driver", owns_run=True)
    run_id = driver.run_id(timeout_s=60)
    driver.close(timeout_s=60)
    assert [left.entries for left in sync_journals(tmp_path)] == [0, 0]
    assert the_run(uri, run_id).data.metrics == {"train/loss": 1.0}


def test_asking_for_runs_creates_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert list_runs(uri, EXPERIMENT) == []
    assert close_dead_runs(uri, EXPERIMENT) == []
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_that_does_not_exist_has_no_runs(uri: str) -> None:
    MlflowClient(tracking_uri=uri).search_experiments()
    assert list_runs(uri, "nobody wrote this") == []


@pytest.mark.parametrize(
    "uri",
    ["https://me:hunter2@host/mlflow", "https://hunter2@host", "postgresql://me:hunter2@db/mlflow"],
)
def test_credentials_in_the_uri_are_refused_and_not_repeated(uri: str, tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        open_tracker(RunTarget(uri, EXPERIMENT, "n", "k"), tmp_path, "driver", owns_run=True)
    assert "hunter2" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_database_is_refused_and_plain_uris_pass() -> None:
    with pytest.raises(JobFileError, match="sqlite:////ABSOLUTE/PATH"):
        check_tracking_uri("sqlite:///mlflow.db")
    for uri in ("sqlite:////x/mlflow.db", "http://127.0.0.1:5000", "https://host/mlflow", "postgresql://me@db/m"):
        check_tracking_uri(uri)


def test_secrets_stay_out_of_every_file(
    uri: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very/secret+key")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    tracker = open_tracker(target("secrets"), tmp_path, "driver", owns_run=True)
    tracker.log_params({"s3.secret": "very/secret+key", "source": "https://me:hunter2@host/x"})
    tracker.set_tags({"why": "very/secret+key"})
    tracker.log_text("plan.json", '{"uri": "https://me:hunter2@host/x"}')
    run_id = tracker.run_id(timeout_s=60)
    tracker.close(timeout_s=60)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    run = the_run(uri, run_id)
    recorded = f"{run.data.params} {run.data.tags}"
    for secret in ("very/secret+key", "hunter2"):
        assert secret not in written
        assert secret not in recorded
    assert run.data.params["source"] == "https://***@host/x"


def test_runs_of_a_comparison_are_shown_below_it_and_write_side_by_side(
    uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("above", "one", "two")}
    for folder in folders.values():
        folder.mkdir()
    below = {
        name: open_tracker(
            RunTarget(uri, EXPERIMENT, name, f"key-{tmp_path.name}-{name}", parent_key=f"key-{tmp_path.name}"),
            folders[name],
            "driver",
            owns_run=True,
        )
        for name in ("one", "two")
    }
    assert below["one"].run_id(timeout_s=0.5) is None, "it waits for the one above"
    above = open_tracker(
        RunTarget(uri, EXPERIMENT, "above", f"key-{tmp_path.name}"), folders["above"], "driver", owns_run=True
    )
    parent = above.run_id(timeout_s=60)
    for step in range(20):
        for tracker in below.values():
            tracker.log_metrics({"train/loss": float(step)}, step)
    for tracker in (*below.values(), above):
        tracker.finish(RunStatus.FINISHED)
        assert tracker.close(timeout_s=60).entries == 0
    for tracker in below.values():
        run = the_run(uri, tracker.run_id())
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert len(connect(uri).get_metric_history(run.info.run_id, "train/loss")) == 20


def test_a_deleted_experiment_is_named_with_what_restores_it_and_loses_nothing(
    uri: str, target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(uri)
    gone = client.create_experiment("gone")
    client.delete_experiment(gone)
    tracker = open_tracker(replace(target("early"), experiment="gone"), tmp_path, "driver", owns_run=True)
    tracker.log_metrics({"train/loss": 0.5}, 1)
    while "experiment 'gone' was deleted in MLflow" not in caplog.text:
        time.sleep(0.02)
    assert f"mlflow experiments restore -x {gone}" in caplog.text
    client.restore_experiment(gone)
    assert tracker.close(timeout_s=60).entries == 0
    assert the_run(uri, tracker.run_id()).data.metrics["train/loss"] == 0.5
