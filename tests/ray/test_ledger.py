"""Every sample once, whatever happens to the run: workers killed at any moment, another world size, bad images."""

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from found_runs import weights_of
from orchestrator.cli.main import app
from orchestrator.data.ledger_report import total_rows
from orchestrator.runs.ledger import report_run_ledger
from orchestrator.runs.pretrain import PretrainResult, run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]

SmokeJob = Callable[..., PretrainSpec]
LocalCluster = Callable[..., ClusterSpec]

# 320 samples, 16 or 32 a step: the borders of epochs lie in the middle of checkpoints' stretches.
SETTINGS = {
    "budget": "{samples: 768}",
    "checkpoint__every_steps": 6,
    "evaluation__sets": "[]",
    "data__heldout": "null",
    "batch__global_size": 16,
    # What depends on the step or is drawn for a sample goes on as well, from any phase.
    "model__resolutions": (
        "[{until_fraction: 0.3, image_sizes: [16]},"
        " {until_fraction: 0.7, image_sizes: [16, 24], global_sizes: [32, 16]}]"
    ),
    "model__patch_dropout": 0.25,
    "data__augmentation__color_jitter": "{}",
    "data__augmentation__rand_augment": "{}",
}


class Killer:
    """Kills a worker at a random moment of the run, and later all of them between an upload and its marker."""

    def __init__(self, worker_pids: Callable[[], list[int]], seed: int, checkpoints: Path) -> None:
        self._worker_pids, self._random, self._checkpoints = worker_pids, random.Random(seed), checkpoints
        self._step = self._random.randrange(4, 20)
        self.random_kill, self.marker_kill = threading.Event(), threading.Event()
        threading.Thread(target=self._watch_markers, daemon=True).start()

    def __call__(self, progress: Progress) -> None:
        if progress.activity == "train" and progress.done >= self._step and not self.random_kill.is_set():
            self.random_kill.set()
            threading.Timer(self._random.random() * 0.3, self._kill_one).start()

    def _kill_one(self) -> None:
        os.kill(self._random.choice(self._worker_pids()), signal.SIGKILL)

    def _watch_markers(self) -> None:
        while not self.marker_kill.wait(0.001):
            folders = sorted(self._checkpoints.glob("step-*"))
            is_late = bool(folders) and folders[-1].name >= "step-00000030"
            if self.random_kill.is_set() and is_late and not (folders[-1] / "COMPLETE.json").exists():
                for pid in self._worker_pids():
                    os.kill(pid, signal.SIGKILL)
                    self.marker_kill.set()


@pytest.fixture(scope="module")
def whole(
    scenes: Path, smoke_job: SmokeJob, local_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> PretrainResult:
    """A run that nothing happens to."""
    return run_pretrain(smoke_job("clip", **SETTINGS), local_cluster(scenes, tmp_path_factory.mktemp("runs")))


def test_a_run_that_nothing_happened_to_has_each_sample_once(whole: PretrainResult, cluster: ClusterSpec) -> None:
    report = report_run_ledger(whole.run_folder, cluster)
    assert [(row.epoch, row.expected, row.trained_once) for row in report.rows] == [
        (0, 320, 320),
        (1, 320, 320),
        (2, 128, 128),
    ]
    assert report.is_healthy
    sizes = Counter(whole.plan.batch.size_at(step) for step in range(whole.plan.steps))
    assert sizes.keys() == {16, 32}
    assert sum(size * number for size, number in sizes.items()) == 768


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2, 3))])
def test_whatever_is_killed_when_nothing_is_lost_or_repeated(
    whole: PretrainResult,
    cluster: ClusterSpec,
    smoke_job: SmokeJob,
    train_worker_pids: Callable[[], list[int]],
    seed: int,
) -> None:
    """Where the newest folder is there and does not count, the stream starts from the checkpoint that was loaded."""
    job = smoke_job("clip", **SETTINGS)
    checkpoints = Path(cluster.storage.runs.removeprefix("file://")) / job.name / "checkpoints"
    killer = Killer(train_worker_pids, seed, checkpoints)
    result = run_pretrain(job, cluster, on_progress=killer)
    assert killer.random_kill.is_set()
    assert killer.marker_kill.is_set()
    report = report_run_ledger(result.run_folder, cluster)
    assert report.is_healthy, report
    assert total_rows(report.rows)["trained_once"] == 768
    expected = weights_of(whole)  # bit-equal weights are bit-equal batches
    for name, weight in weights_of(result).items():
        assert torch.equal(weight, expected[name]), name


def test_the_command_prints_the_ledger(whole: PretrainResult, scenes: Path, tmp_path: Path) -> None:
    runs = whole.run_folder.removeprefix("file://")
    place = {
        "name": "here",
        "workers": {"count": 2, "accelerator": "cpu"},
        "storage": {"data": str(scenes), "runs": str(Path(runs).parent)},
    }
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(place))
    arguments = ["ledger", whole.plan.name, "--cluster", str(tmp_path)]
    shown = CliRunner().invoke(app, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    total = {
        "expected": 768,
        "inherited": 0,
        "trained_once": 768,
        "repeated": 0,
        "skipped": 0,
        "substituted": 0,
        "left_out": 0,
        "filtered": 0,
    }
    assert document["total"] == {**total, "missing": 0, "unplanned": 0, "unannotated": 0}
    assert [row["epoch"] for row in document["epochs"]] == [0, 1, 2]
    assert "every sample had its turn once" in CliRunner().invoke(app, arguments).output
