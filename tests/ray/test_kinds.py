"""The other kinds of jobs and data, end to end: synthetic samples, Parquet shards, a job that judges a run again."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from found_runs import recorded, weights_of
from orchestrator.cli.main import app
from orchestrator.errors import DatasetError
from orchestrator.runs.label import label_concepts
from orchestrator.runs.prepare import prepare_facts
from orchestrator.runs.pretrain import PretrainResult, run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.flops import training_flops
from orchestrator.spec.job import PrepareSpec, PretrainSpec
from orchestrator.spec.load import load_job
from orchestrator.spec.objective import CatlipSpec
from shards import read_members

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SmokeJob = Callable[..., PretrainSpec]
LocalCluster = Callable[..., ClusterSpec]


@pytest.mark.full
def test_synthetic_samples_need_no_data_and_teach_nothing(
    tmp_path: Path, smoke_job: SmokeJob, local_cluster: LocalCluster
) -> None:
    job = load_job(str(ROOT / "jobs/smoke/synthetic.yaml"), ["budget.steps=4"])
    assert isinstance(job, PretrainSpec)
    result = run_pretrain(job, local_cluster(tmp_path / "nothing-here", tmp_path / "runs", num_workers=1))
    assert (result.status, result.step) == ("finished", 4)
    found = recorded(result).data.metrics
    assert found["train/samples_seen"] == 4 * job.batch.global_size
    assert found["train/flops"] == pytest.approx(training_flops(result.plan) * found["train/samples_seen"])
    assert found["train/seconds"] > 0
    assert found["train/loss"] == pytest.approx(math.log(job.batch.global_size), abs=1)
    assert "heldout/loss" not in found
    assert result.evaluation == []
    assert all(weight.isfinite().all() for weight in weights_of(result).values())


def to_parquet(shard: Path, dest: Path) -> None:
    """The shard's samples in their order, as rows of the columns ``picture``, ``sentence`` and its copy ``again``."""
    contents = [content for _, content in read_members(shard)]
    pictures, sentences = contents[::2], [text.decode() for text in contents[1::2]]
    columns = {"picture": pictures, "sentence": sentences, "again": sentences}
    pq.write_table(pa.table(columns), dest, row_group_size=64)


@pytest.fixture(scope="module")
def parquet_scenes(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes as Parquet."""
    root = tmp_path_factory.mktemp("parquet")
    for split in ("train", "val"):
        (root / "scenes" / split).mkdir(parents=True)
        for shard in (scenes / "scenes" / split).glob("*.tar"):
            to_parquet(shard, root / "scenes" / split / f"{shard.stem}.parquet")
    return root


@pytest.mark.full
def test_all_captions_of_an_image_are_its_positives(
    parquet_scenes: Path,
    tmp_path: Path,
    clip_result: PretrainResult,
    smoke_job: SmokeJob,
    local_cluster: LocalCluster,
) -> None:
    """A caption and its copy teach what one does; the loss knows that there are two."""
    fields = {"data__image_fields": "[picture]", "data__caption_fields": "[sentence, again]"}
    job = smoke_job("clip", evaluation__sets="[]", data__captions_per_image=2, **fields)
    result = run_pretrain(job, local_cluster(parquet_scenes, tmp_path / "runs"))
    assert result.status == "finished"
    found, expected = losses(result), losses(clip_result)
    assert len(found) == len(expected) == 8
    assert found == pytest.approx([loss + math.log(2) / 2 for loss in expected], abs=1e-3)
    metrics = recorded(result).data.metrics
    assert metrics["train/repeated_caption_fraction"] == 0.5
    # Held-out losses take one caption, so that they compare.
    assert metrics["heldout/loss"] == pytest.approx(recorded(clip_result).data.metrics["heldout/loss"], abs=1e-3)


def losses(result: PretrainResult) -> list[float]:
    """Of each step."""
    assert result.mlflow_run_id is not None
    history = MlflowClient(result.tracking_uri).get_metric_history(result.mlflow_run_id, "train/loss")
    return [point.value for point in history]


@pytest.mark.full
def test_parquet_shards_train_the_same_weights_as_tar_shards(
    parquet_scenes: Path,
    tmp_path: Path,
    clip_result: PretrainResult,
    smoke_job: SmokeJob,
    local_cluster: LocalCluster,
) -> None:
    fields = {"data__image_fields": "[picture]", "data__caption_fields": "[sentence]"}
    job = smoke_job("clip", evaluation__sets="[]", **fields)
    result = run_pretrain(job, local_cluster(parquet_scenes, tmp_path / "runs"))
    assert result.status == "finished"
    assert recorded(result).data.metrics["heldout/loss"] == recorded(clip_result).data.metrics["heldout/loss"]
    expected = weights_of(clip_result)
    for name, weight in weights_of(result).items():
        assert torch.equal(weight, expected[name]), name


def test_a_job_that_judges_a_run_prints_and_records_what_it_finds(
    clip_cluster: ClusterSpec, clip_result: PretrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"sets": ["scenes/eval"], "max_samples": 60, "weights": "raw"}
    before = recorded(clip_result).data.metrics
    job = {"kind": "evaluate", "name": "judge", "run": clip_result.plan.name, "evaluation": evaluation}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(clip_cluster.model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    done = CliRunner().invoke(app, ["run", "judge.yaml", "--cluster", "."])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    run = recorded(clip_result)
    assert run.info.status == "FINISHED"
    for probe, feature in (("linear_probe", "pooled"), ("zero_shot", "embedding")):
        metric = f"eval/scenes-eval/{probe}/shape/accuracy"
        accuracy = run.data.metrics[metric]
        assert (accuracy, run.data.metrics[f"{metric}/low"]) != (before[metric], before[f"{metric}/low"])
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
