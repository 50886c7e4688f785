"""The other kinds of jobs and data, end to end: synthetic samples, Parquet shards, a job that judges a run again."""

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from orchestrator.errors import DatasetError
from orchestrator.runs.label import label_concepts
from orchestrator.runs.prepare import prepare_facts
from orchestrator.runs.pretrain import PretrainResult, run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PrepareSpec, PretrainSpec
from orchestrator.spec.load import load_job
from orchestrator.spec.objective import CatlipSpec
from orchestrator.storage.store import open_store
from orchestrator.training.checkpoint import load_weights
from orchestrator.training.checkpoint_folders import find_stored
from shards import read_members

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SmokeJob = Callable[..., PretrainSpec]
LocalCluster = Callable[..., ClusterSpec]

SHORT = {"budget__steps": 4, "evaluation__sets": "[]"}


@pytest.fixture(scope="module")
def tar_cluster(scenes: Path, local_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    """The cluster that holds ``tar_result``."""
    return local_cluster(scenes, tmp_path_factory.mktemp("runs"), num_workers=1)


@pytest.fixture(scope="module")
def tar_result(tar_cluster: ClusterSpec, smoke_job: SmokeJob) -> PretrainResult:
    """A short run over tar shards, which was not evaluated."""
    return run_pretrain(smoke_job("clip", **SHORT), tar_cluster)


def recorded(result: PretrainResult) -> "mlflow.entities.Run":
    assert result.mlflow_run_id is not None
    return mlflow.MlflowClient(result.tracking_uri).get_run(result.mlflow_run_id)


def weights_of(result: PretrainResult) -> dict[str, torch.Tensor]:
    store = open_store(result.run_folder)
    stored = find_stored(store)
    assert stored is not None
    return load_weights(store, stored, average=False)


def test_synthetic_samples_need_no_data_and_teach_nothing(
    tmp_path: Path, smoke_job: SmokeJob, local_cluster: LocalCluster
) -> None:
    job = load_job(str(ROOT / "jobs/smoke/synthetic.yaml"), ["budget.steps=4"])
    assert isinstance(job, PretrainSpec)
    result = run_pretrain(job, local_cluster(tmp_path / "nothing-here", tmp_path / "runs", num_workers=1))
    assert (result.status, result.step) == ("finished", 4)
    found = recorded(result).data.metrics
    assert found["train/samples_seen"] == 4 * job.batch.global_size
    assert found["train/loss"] == pytest.approx(math.log(job.batch.global_size), abs=1)
    assert "heldout/loss" not in found
    assert result.evaluation == []
    assert all(weight.isfinite().all() for weight in weights_of(result).values())


def to_parquet(shard: Path, dest: Path) -> None:
    """The shard's samples in their order, as rows of the columns ``picture`` and ``sentence``."""
    contents = [content for _, content in read_members(shard)]
    pictures, sentences = contents[::2], [text.decode() for text in contents[1::2]]
    pq.write_table(pa.table({"picture": pictures, "sentence": sentences}), dest, row_group_size=64)


def test_parquet_shards_train_the_same_weights_as_tar_shards(
    scenes: Path, tmp_path: Path, tar_result: PretrainResult, smoke_job: SmokeJob, local_cluster: LocalCluster
) -> None:
    for split in ("train", "val"):
        (tmp_path / "data/scenes" / split).mkdir(parents=True)
        for shard in (scenes / "scenes" / split).glob("*.tar"):
            to_parquet(shard, tmp_path / "data/scenes" / split / f"{shard.stem}.parquet")
    job = smoke_job("clip", data__image_fields="[picture]", data__caption_fields="[sentence]", **SHORT)
    result = run_pretrain(job, local_cluster(tmp_path / "data", tmp_path / "runs", num_workers=1))
    assert result.status == "finished"
    assert recorded(result).data.metrics["heldout/loss"] == recorded(tar_result).data.metrics["heldout/loss"]
    expected = weights_of(tar_result)
    for name, weight in weights_of(result).items():
        assert torch.equal(weight, expected[name]), name


def test_a_job_that_judges_a_run_prints_and_records_what_it_finds(
    tar_cluster: ClusterSpec, tar_result: PretrainResult, tmp_path: Path
) -> None:
    assert not [name for name in recorded(tar_result).data.metrics if name.startswith("eval/")]
    evaluation = {"sets": ["scenes/eval"], "max_samples": 60}
    job = {"kind": "evaluate", "name": "judge", "run": tar_result.plan.name, "evaluation": evaluation}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(tar_cluster.model_dump(mode="json")))
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", "judge.yaml", "--cluster", "."]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = recorded(tar_result)
    assert run.info.status == "FINISHED"
    for probe, feature in (("linear_probe", "pooled"), ("zero_shot", "embedding")):
        accuracy = run.data.metrics[f"eval/scenes-eval/{probe}/shape/accuracy"]
        wanted = [probe, "shape", feature, "accuracy"]
        (row,) = [row.split() for row in done.stdout.splitlines() if row.split()[1:5] == wanted]
        assert row[5] == f"{accuracy:.3f}"


def test_concepts_are_counted_on_the_cluster_and_a_second_start_finds_them(
    scenes: Path, tmp_path: Path, smoke_job: SmokeJob, local_cluster: LocalCluster
) -> None:
    shutil.copytree(scenes / "scenes" / "train", tmp_path / "data/scenes/train")
    cluster = local_cluster(tmp_path / "data", tmp_path / "runs", num_workers=1)
    catlip = smoke_job("catlip", data__heldout="null", evaluation__sets="[]", objective__labels="stored")
    counted_here = prepare_facts(
        catlip.model_copy(update={"objective": CatlipSpec(name="catlip", min_count=2)}), cluster
    )
    job = load_job(str(ROOT / "jobs/smoke/concepts-scenes.yaml"))
    assert isinstance(job, PrepareSpec)
    shown: list[Progress] = []
    first = label_concepts(job, cluster, on_progress=shown.append)
    assert {progress.activity for progress in shown} == {"find concepts", "measure coverage"}
    assert (shown[-1].done, shown[-1].total) == (4, 4)
    assert (first.num_shards, first.num_stored, first.num_captions) == (4, 0, 320)
    assert sum(first.coverage["captions_by_labels"]) == pytest.approx(1, abs=1e-4)
    facts = prepare_facts(catlip, cluster).vocabulary
    assert counted_here.vocabulary is not None
    assert facts is not None
    assert (facts.uri, facts.digest) == (first.vocabulary, first.digest)
    assert facts.digest == counted_here.vocabulary.digest, "the driver counts the same"
    second = label_concepts(job, cluster)
    assert second == dataclasses.replace(first, num_stored=4)
    without = label_concepts(job.model_copy(update={"store_labels": False}), cluster)
    assert without == first
    damaged = tmp_path / "data/scenes/train/00002.tar"
    damaged.write_bytes(damaged.read_bytes()[:-20_000])
    with pytest.raises(DatasetError, match="orchestrator data index"):
        label_concepts(job, cluster)
