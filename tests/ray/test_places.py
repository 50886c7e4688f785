"""The same job elsewhere: in a bucket, from the command line, with a tracking server that is not there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
AWAY = "http://127.0.0.1:9"
"""No tracking server answers here."""
SmokeJob = Callable[..., PretrainSpec]


def in_bucket(s3_server: Any, cluster: ClusterSpec, tracking: str) -> ClusterSpec:
    """The same workers; data, runs and checkpoints in the bucket, MLflow at ``tracking``."""
    storage = {"data": f"{s3_server.uri}/data", "runs": f"{s3_server.uri}/runs", "s3": {"endpoint": s3_server.endpoint}}
    changes = {"storage": storage, "tracking": {"uri": tracking}}
    return ClusterSpec.model_validate(cluster.model_dump() | changes)


@pytest.mark.usefixtures("ray_local")
def test_the_same_job_file_trains_the_same_weights_from_a_bucket_while_no_tracking_server_answers(
    s3_server: Any, scenes: Path, clip_result: PretrainResult, cluster: ClusterSpec, smoke_job: SmokeJob, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        shards = s3_server.folder / "data" / "scenes" / split
        shards.mkdir(parents=True)
        for shard in (scenes / "scenes" / split).glob("*.tar"):
            shutil.copy(shard, shards)
    job = smoke_job("clip", evaluation__sets="[]")
    bucket = in_bucket(s3_server, cluster, AWAY)
    there = run_pretrain(job, bucket)
    assert there.status == "finished"
    assert there.mlflow_run_id is None
    assert there.checkpoint_uri.startswith(s3_server.uri)
    expected = weights_of(clip_result)
    for name, weight in weights_of(there, bucket.storage.s3).items():
        assert torch.equal(weight, expected[name]), name
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    written = [*s3_server.folder.rglob("runs/**/*"), *tmp_path.rglob("*")]
    assert not [file for file in written if file.is_file() and secret in file.read_bytes()]
    check_the_record_comes_later(bucket, there, f"sqlite:///{tmp_path}/later.db")


def check_the_record_comes_later(place: ClusterSpec, result: PretrainResult, uri: str) -> None:
    """The journals, which lie on this machine, are delivered once their server, here another one, answers."""
    journals = Path(os.environ["HOME"], ".local/state/vl-orchestrator/tracking")
    (target,) = (file for file in journals.glob("*/driver.target.json") if AWAY in file.read_text())
    target.write_text(target.read_text().replace(AWAY, uri))
    assert list(sync_runs(place)) == []
    (row,) = list_runs(uri, "vl-orchestrator")
    assert row.status == "FINISHED"
    assert row.steps == result.plan.steps
    assert row.checkpoint_uri == result.checkpoint_uri


def test_a_missing_bucket_is_said_before_anything_starts(
    s3_server: Any, cluster: ClusterSpec, smoke_job: SmokeJob, tmp_path: Path
) -> None:
    bucket = in_bucket(s3_server, cluster, f"sqlite:///{tmp_path}/mlflow.db")
    storage = bucket.storage.model_copy(update={"data": "s3://no-such-bucket/data"})
    with pytest.raises(StorageAccessError, match="no-such-bucket"):
        run_pretrain(smoke_job("clip"), bucket.model_copy(update={"storage": storage}))


@pytest.mark.full
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
