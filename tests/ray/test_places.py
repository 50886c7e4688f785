"""The same job elsewhere: in a bucket, from the command line, with a tracking server that is not there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml

from found_runs import weights_of
from orchestrator.errors import StorageAccessError
from orchestrator.runs.pretrain import PretrainResult, run_pretrain
from orchestrator.runs.sync import sync_runs
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.tracking.mlflow.runs import list_runs

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SmokeJob = Callable[..., PretrainSpec]
LocalCluster = Callable[..., ClusterSpec]


def in_bucket(s3_server: Any, cluster: ClusterSpec, tmp_path: Path) -> ClusterSpec:
    """The same workers; data, runs and checkpoints in the bucket."""
    storage = {"data": f"{s3_server.uri}/data", "runs": f"{s3_server.uri}/runs", "s3": {"endpoint": s3_server.endpoint}}
    changes = {"storage": storage, "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"}}
    return ClusterSpec.model_validate(cluster.model_dump() | changes)


@pytest.mark.usefixtures("ray_local")
def test_the_same_job_file_trains_the_same_weights_from_a_bucket(
    s3_server: Any, scenes: Path, clip_result: PretrainResult, cluster: ClusterSpec, smoke_job: SmokeJob, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        shards = s3_server.folder / "data" / "scenes" / split
        shards.mkdir(parents=True)
        for shard in (scenes / "scenes" / split).glob("*.tar"):
            shutil.copy(shard, shards)
    job = smoke_job("clip", evaluation__sets="[]")
    bucket = in_bucket(s3_server, cluster, tmp_path)
    there = run_pretrain(job, bucket)
    assert there.status == "finished"
    assert there.checkpoint_uri.startswith(s3_server.uri)
    expected = weights_of(clip_result)
    for name, weight in weights_of(there, bucket.storage.s3).items():
        assert torch.equal(weight, expected[name]), name
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    written = [*s3_server.folder.rglob("runs/**/*"), *tmp_path.rglob("*")]
    assert not [file for file in written if file.is_file() and secret in file.read_bytes()]


def test_a_missing_bucket_is_said_before_anything_starts(
    s3_server: Any, cluster: ClusterSpec, smoke_job: SmokeJob, tmp_path: Path
) -> None:
    bucket = in_bucket(s3_server, cluster, tmp_path)
    storage = bucket.storage.model_copy(update={"data": "s3://no-such-bucket/data"})
    with pytest.raises(StorageAccessError, match="no-such-bucket"):
        run_pretrain(smoke_job("clip"), bucket.model_copy(update={"storage": storage}))


@pytest.mark.usefixtures("ray_local")
def test_catlip_runs_and_a_tracking_server_that_never_answers_gets_its_record_later(
    scenes: Path, local_cluster: LocalCluster, smoke_job: SmokeJob, tmp_path: Path
) -> None:
    cluster = local_cluster(scenes, tmp_path / "runs")
    away = cluster.model_copy(update={"tracking": cluster.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    job = smoke_job("catlip", batch__micro_size=8)
    result = run_pretrain(job, away)
    assert result.status == "finished"
    assert result.mlflow_run_id is None
    assert result.plan.batch.num_micro == 2
    zero_shot = [probe for probe in result.evaluation if probe.probe == "zero_shot"]
    assert {probe.feature for probe in zero_shot} == {"synset_rows"}
    assert any(probe.accuracy is not None for probe in zero_shot)
    assert all(probe.scores for probe in result.evaluation if probe.probe == "linear_probe")

    target = tmp_path / "runs" / job.name / "tracking" / "driver.target.json"
    target.write_text(target.read_text().replace("http://127.0.0.1:9", f"sqlite:///{tmp_path}/later.db"))
    assert list(sync_runs(cluster)) == []
    (row,) = list_runs(f"sqlite:///{tmp_path}/later.db", job.experiment)
    assert row.status == "FINISHED"
    assert row.steps == result.plan.steps
    assert row.checkpoint_uri == result.checkpoint_uri
    (run,) = mlflow.MlflowClient(f"sqlite:///{tmp_path}/later.db").search_runs(["1"])
    wanted = {"train/loss_over_prior", "train/positives_per_image", "train/precision_at_5", "train/all_zero_fraction"}
    assert wanted <= set(run.data.metrics)


def test_the_command_line_checkpoints_at_a_signal_and_goes_on(scenes: Path, tmp_path: Path) -> None:
    place = {
        "name": "test",
        "workers": {"count": 1, "accelerator": "cpu"},
        "ray": {"num_cpus": 4, "object_store_bytes": 512 * 2**20},
        "storage": {"data": str(scenes), "runs": str(tmp_path / "runs")},
    }
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(place))
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", str(ROOT / "jobs/smoke/clip-scenes.yaml")]
    command += ["--cluster", str(tmp_path / "cluster.yaml"), "--set", "evaluation.sets=[]", "--set", "budget.steps=400"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    printed = []
    for line in process.stderr:
        printed.append(line)
        if line.startswith("train:"):
            process.send_signal(signal.SIGTERM)
            break
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, "".join([*printed, rest])
    assert "checkpoint at step" in rest
    (row,) = list_runs(f"sqlite:///{tmp_path}/runs/mlflow.db", "vl-orchestrator")
    assert row.status == "KILLED"
    assert "SIGTERM" in str(row.reason)
    again = [*command[:-1], f"budget.steps={row.steps}"]
    refused = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2
    assert "belongs to another plan" in refused.stderr
