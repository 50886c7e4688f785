"""The main job, end to end, on real parts: from shards to a trained, tracked, evaluated and exported model."""

import io
import json
import os
import signal
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import ray
import torch

from found_runs import recorded, weights_of
from orchestrator.data.ledger_report import total_rows
from orchestrator.data.quarantine import read_quarantine
from orchestrator.errors import BadSampleLimitError, Interrupted, RunConflictError, RunHeldError, WorkerLostError
from orchestrator.runs import attempts
from orchestrator.runs.control import RunControl
from orchestrator.runs.evaluate import evaluate_run
from orchestrator.runs.export import export_run
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.ledger import report_run_ledger
from orchestrator.runs.prepare import prepare_facts
from orchestrator.runs.pretrain import Onlookers, PretrainResult, run_plan, run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.runs.quarantine import write_quarantine_list
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.lease import acquire_lease
from orchestrator.storage.store import open_store
from orchestrator.tracking.metrics import is_metric
from orchestrator.training.checkpoint_folders import list_stored
from shards import read_members

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]

SmokeJob = Callable[..., PretrainSpec]
LocalCluster = Callable[..., ClusterSpec]


def test_a_run_is_finished_tracked_and_evaluated(clip_result: PretrainResult) -> None:
    assert clip_result.status == "finished"
    assert clip_result.step == clip_result.plan.steps == 8
    run = recorded(clip_result)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "smoke-clip-scenes"
    wanted = {
        "train/loss", "train/learning_rate", "train/samples_per_s", "train/data_wait_fraction", "train/step_s",
        "train/grad_norm/vision", "train/grad_norm/text", "train/clipped_step_fraction", "train/memory_bytes",
        "heldout/loss", "train/logit_scale", "train/image_to_text_accuracy", "train/text_to_image_accuracy",
        "train/positive_similarity", "train/hardest_negative_similarity", "train/truncated_caption_fraction",
        "train/duplicate_caption_fraction",
        "system/object_store_bytes",
    }  # fmt: skip
    names = set(run.data.metrics)
    assert wanted <= names
    assert not {name for name in names if not is_metric(name)}
    assert run.data.params["objective.name"] == "clip"
    recorded_digest = run.inputs.dataset_inputs[0].dataset.digest  # MLflow keeps 36 characters
    assert clip_result.plan.data.sources[0].shards.digest.startswith(recorded_digest)


def test_every_step_is_recorded_once(clip_result: PretrainResult) -> None:
    assert clip_result.mlflow_run_id is not None
    client = mlflow.MlflowClient(clip_result.tracking_uri)
    history = client.get_metric_history(clip_result.mlflow_run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 9))


def test_raw_and_averaged_weights_are_both_evaluated(clip_result: PretrainResult) -> None:
    assert {result.probe for result in clip_result.evaluation} == set(clip_result.plan.evaluation.probes)
    assert len(clip_result.evaluation_ema) == len(clip_result.evaluation)


def test_checkpoints_are_logged_models_that_carry_their_uri(clip_result: PretrainResult) -> None:
    client = mlflow.MlflowClient(clip_result.tracking_uri)
    models = client.search_logged_models(experiment_ids=[recorded(clip_result).info.experiment_id])
    uris = {model.tags["checkpoint_uri"]: model for model in models}
    assert clip_result.checkpoint_uri in uris
    names = {metric.key for metric in uris[clip_result.checkpoint_uri].metrics or []}
    assert "eval/scenes-eval/linear_probe/shape/accuracy" in names


def test_evaluating_again_gives_the_same_answers(clip_result: PretrainResult, clip_cluster: ClusterSpec) -> None:
    again = evaluate_run(clip_result.run_folder, clip_cluster)
    assert [(result.target, result.feature, result.accuracy) for result in again] == [
        (result.target, result.feature, pytest.approx(result.accuracy)) for result in clip_result.evaluation
    ]


def test_an_export_opens_in_transformers(
    clip_result: PretrainResult, clip_cluster: ClusterSpec, tmp_path: Path
) -> None:
    from transformers import CLIPModel

    export_run(clip_result.run_folder, str(tmp_path / "export"), clip_cluster)
    model = CLIPModel.from_pretrained(tmp_path / "export")
    assert {file.name for file in (tmp_path / "export").iterdir()} >= {"tokenizer.json", "plan.json", "config.json"}
    assert model.logit_scale.ndim == 0
    torch.testing.assert_close(model.logit_scale.detach(), weights_of(clip_result)["logit_scale"][0])


def test_the_same_name_again_is_finished_already(
    clip_result: PretrainResult, clip_cluster: ClusterSpec, smoke_job: SmokeJob
) -> None:
    again = run_pretrain(smoke_job("clip", ema__decay=0.9), clip_cluster)
    assert again.status == "finished"
    assert again.samples_per_s is None
    assert again.checkpoint_uri == clip_result.checkpoint_uri


def test_a_name_of_another_plan_is_refused_with_what_differs(clip_cluster: ClusterSpec, smoke_job: SmokeJob) -> None:
    job = smoke_job("clip", ema__decay=0.9, optimizer__learning_rate=0.5, objective__max_scale=50)
    with pytest.raises(RunConflictError, match=r"(?s)objective.*max_scale.*optimizer.*learning_rate"):
        run_pretrain(job, clip_cluster)


def test_a_run_that_is_live_elsewhere_is_refused_by_its_holder(cluster: ClusterSpec, smoke_job: SmokeJob) -> None:
    job = smoke_job("clip")
    with (
        acquire_lease(open_store(f"{cluster.storage.runs}/{job.name}"), "another-host:42"),
        pytest.raises(RunHeldError, match="another-host:42"),
    ):
        run_pretrain(job, cluster)


@pytest.mark.full
def test_siglip_runs_in_micro_batches_and_classifies_by_names(cluster: ClusterSpec, smoke_job: SmokeJob) -> None:
    result = run_pretrain(smoke_job("siglip"), cluster)
    assert result.plan.batch.num_micro > 1
    assert {"train/logit_bias", "train/logit_scale", "heldout/loss"} <= set(recorded(result).data.metrics)
    zero_shot = [probe for probe in result.evaluation if probe.probe == "zero_shot"]
    assert {probe.feature for probe in zero_shot} == {"embedding"}
    assert any(probe.accuracy is not None for probe in zero_shot)


def test_another_world_size_and_zero_stage_may_go_on(
    cluster: ClusterSpec, smoke_job: SmokeJob, scenes: Path, local_cluster: LocalCluster
) -> None:
    settings = {
        "budget__steps": 160,
        "checkpoint__every_steps": 20,
        "log_every_steps": 30,
        "evaluation__sets": "[]",
        "name": "moved",
    }
    stopped = threading.Event()

    def stop_once(progress: Progress) -> None:
        if progress.activity == "train" and progress.done >= 2 and not stopped.is_set():
            stopped.set()
            os.kill(os.getpid(), signal.SIGINT)

    first = run_pretrain(smoke_job("clip", **settings), cluster, on_progress=stop_once)
    assert first.status == "stopped"
    assert first.step < 160
    assert recorded(first).info.status == "KILLED"
    assert first.mlflow_run_id is not None
    points = mlflow.MlflowClient(first.tracking_uri).get_metric_history(first.mlflow_run_id, "train/loss")
    assert max(point.step for point in points) == first.step, "all steps are in a mean"
    seconds = [record.record.state["train_s"] for record in list_stored(open_store(first.run_folder))]
    assert sorted(set(seconds), reverse=True) == seconds, "what no line of the log has counted yet is spent too"
    runs = Path(first.run_folder.removeprefix("file://")).parent
    second = run_pretrain(smoke_job("clip", zero_stage=3, **settings), local_cluster(scenes, runs, num_workers=1))
    assert second.status == "finished"
    assert second.mlflow_run_id == first.mlflow_run_id
    counts = total_rows(report_run_ledger(second.run_folder, cluster).rows)
    expected = 160 * second.plan.batch.global_size
    assert counts == {**dict.fromkeys(counts, 0), "expected": expected, "trained_once": expected}
    assert recorded(second).info.status == "FINISHED"


def test_a_driver_that_no_longer_hears_its_workers_starts_them_again(
    cluster: ClusterSpec, smoke_job: SmokeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls: list[RunControl] = []

    class Kept(RunControl):
        def __init__(self) -> None:
            super().__init__()
            controls.append(self)

    def kill_once(progress: Progress) -> None:
        if progress.activity == "train" and len(controls) == 1:
            ray.kill(controls[0].mailbox)

    monkeypatch.setattr(attempts, "RunControl", Kept)
    job = smoke_job("clip", name="unheard", budget__steps=60, evaluation__sets="[]")
    result = run_pretrain(job, cluster, on_progress=kill_once)
    assert (result.status, result.step, len(controls)) == ("finished", 60, 2)
    assert recorded(result).data.metrics["run/attempts"] == 2


def damaged_scenes(scenes: Path, root: Path, num_bad: int) -> Path:
    """A copy of the training shards whose first images do not decode."""
    (root / "scenes" / "train").mkdir(parents=True)
    for shard in sorted((scenes / "scenes" / "train").glob("*.tar")):
        with tarfile.open(root / "scenes" / "train" / shard.name, "w") as target:
            for name, content in read_members(shard):
                if name.endswith(".jpg") and num_bad > 0:
                    content, num_bad = b"not an image", num_bad - 1
                member = tarfile.TarInfo(name)
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
    return root


def test_bad_images_are_replaced_and_counted(
    scenes: Path, tmp_path: Path, smoke_job: SmokeJob, local_cluster: LocalCluster
) -> None:
    data = damaged_scenes(scenes, tmp_path / "data", num_bad=5)
    job = smoke_job(
        "clip", data__heldout="null", evaluation__sets="[]", budget__steps=10, data__max_skipped_fraction=0.1
    )
    cluster = local_cluster(data, tmp_path / "runs", num_workers=1)
    result = run_pretrain(job, cluster)
    assert recorded(result).data.metrics["train/skipped_samples/image_undecodable"] == 5
    assert recorded(result).data.metrics["ledger/train/skipped"] == 5
    report = report_run_ledger(result.run_folder, cluster)
    assert report.is_healthy
    assert sum(row.skipped.get("image_undecodable", 0) for row in report.rows) == 5
    rows = read_quarantine(open_store(result.run_folder)).to_pylist()
    assert {row["reason"] for row in rows} == {"image_undecodable"}
    assert sorted(row["index"] for row in rows) == [0, 1, 2, 3, 4]
    denied = str(data / "denied.parquet")
    written = write_quarantine_list(result.run_folder, cluster, denied, "key")
    assert (written.num_rows, written.notes) == (5, ())
    train = {"uri": "scenes/train", "select": {"deny": denied}}
    again = smoke_job("clip", data__train=json.dumps([train]), data__heldout="null", evaluation__sets="[]")
    facts = prepare_facts(again, cluster)
    assert facts.train[0].filtered["denied"] == 5


@pytest.mark.full
def test_too_many_bad_images_stop_the_run_by_name(
    scenes: Path, tmp_path: Path, smoke_job: SmokeJob, local_cluster: LocalCluster
) -> None:
    data = damaged_scenes(scenes, tmp_path / "data", num_bad=100)
    job = smoke_job("clip", data__heldout="null", evaluation__sets="[]")
    cluster = local_cluster(data, tmp_path / "runs", num_workers=1)
    with pytest.raises(BadSampleLimitError, match=r"max_skipped_fraction.*image_undecodable.*\.tar") as error:
        run_pretrain(job, cluster)
    run_folder = join_uri(cluster.storage.runs, job.name)
    num_named = len(read_quarantine(open_store(run_folder)))
    assert f"{num_named} of " in str(error.value)
    assert write_quarantine_list(run_folder, cluster, f"{tmp_path}/denied.parquet", "key").num_rows == num_named
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    run = client.search_runs(["1"])[0]
    assert run.info.status == "FAILED"
    assert "image_undecodable" in run.data.tags["orchestrator.reason"]


def without_room(cluster: ClusterSpec, patience_s: float) -> ClusterSpec:
    """Workers that want more CPUs than there are."""
    workers = cluster.workers.model_copy(update={"cpus": 50})
    ray = cluster.ray.model_copy(update={"num_cpus": 200, "patience_s": patience_s})
    return cluster.model_copy(update={"workers": workers, "ray": ray})


def test_a_cluster_without_room_is_waited_for_as_long_as_its_file_says(
    cluster: ClusterSpec, smoke_job: SmokeJob
) -> None:
    with pytest.raises(WorkerLostError, match=r"timed out after 1\.0 seconds waiting for 2 workers"):
        run_pretrain(smoke_job("clip", faults__max_attempts=1), without_room(cluster, 1.0))


def test_who_waits_for_room_can_be_stopped(
    cluster: ClusterSpec, smoke_job: SmokeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_STARTS_WITHIN_S", 0.5)
    job, place = smoke_job("clip"), without_room(cluster, 20.0)
    plan = resolve_plan(job, place, prepare_facts(job, place, None))
    stop = StopRequest()
    stop.ask("enough")
    with pytest.raises(Interrupted, match="enough, while no worker had started"):
        run_plan(plan, place, stop, Onlookers())
