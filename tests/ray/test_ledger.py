"""Every sample once, whatever happens to the run: workers killed at any moment, another world size, bad images."""

import json
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.data.ledger_report import total_rows
from orchestrator.runs.ledger import report_run_ledger
from orchestrator.runs.pretrain import PretrainResult, run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.storage.store import open_store
from orchestrator.training.checkpoint import load_weights
from orchestrator.training.checkpoint_folders import find_stored

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]

SmokeJob = Callable[..., PretrainSpec]
LocalCluster = Callable[..., ClusterSpec]

# 320 samples, 16 a step: an epoch is 20 steps, and its border lies in the middle of a checkpoint's stretch.
SETTINGS = {
    "budget__steps": 48,
    "checkpoint__every_steps": 6,
    "evaluation__sets": "[]",
    "data__heldout": "null",
    "batch__global_size": 16,
}


def weights_of(result: PretrainResult) -> dict[str, torch.Tensor]:
    store = open_store(result.run_folder)
    stored = find_stored(store)
    assert stored is not None
    return load_weights(store, stored, average=False)


class Killer:
    """Kills a worker each time the run has gone on for a while, at a random moment after the step it is told of."""

    def __init__(self, worker_pids: Callable[[], list[int]], seed: int, num_kills: int) -> None:
        self._worker_pids, self._random = worker_pids, random.Random(seed)
        self._steps = sorted(self._random.sample(range(4, 44), num_kills))
        self.killed: list[int] = []

    def __call__(self, progress: Progress) -> None:
        if progress.activity == "train" and self._steps and progress.done >= self._steps[0]:
            self._steps.pop(0)
            threading.Timer(self._random.random() * 0.3, self._kill).start()

    def _kill(self) -> None:
        pids = self._worker_pids()
        if pids:
            self.killed.append(self._random.choice(pids))
            os.kill(self.killed[-1], signal.SIGKILL)


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


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_killed_at_random_moments_lose_and_repeat_nothing(
    whole: PretrainResult,
    cluster: ClusterSpec,
    smoke_job: SmokeJob,
    train_worker_pids: Callable[[], list[int]],
    seed: int,
) -> None:
    killer = Killer(train_worker_pids, seed, num_kills=2)
    result = run_pretrain(smoke_job("clip", **SETTINGS), cluster, on_progress=killer)
    assert killer.killed
    report = report_run_ledger(result.run_folder, cluster)
    assert report.is_healthy, report
    assert total_rows(report.rows)["trained_once"] == 48 * 16
    expected = weights_of(whole)  # bit-equal weights are bit-equal batches
    for name, weight in weights_of(result).items():
        assert torch.equal(weight, expected[name]), name


def test_a_kill_between_the_upload_and_its_marker_loses_nothing(
    whole: PretrainResult, cluster: ClusterSpec, smoke_job: SmokeJob, train_worker_pids: Callable[[], list[int]]
) -> None:
    """The newest folder is there and does not count: the stream starts from the checkpoint that was loaded."""
    checkpoints = Path(cluster.storage.runs.removeprefix("file://")) / "smoke-clip-scenes" / "checkpoints"
    killed = threading.Event()

    def watch() -> None:
        while not killed.wait(0.001):
            folders = sorted(checkpoints.glob("step-*"))
            if len(folders) >= 3 and not (folders[-1] / "COMPLETE.json").exists():
                for pid in train_worker_pids():
                    os.kill(pid, signal.SIGKILL)
                    killed.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    result = run_pretrain(smoke_job("clip", **SETTINGS), cluster)
    assert killed.is_set()
    report = report_run_ledger(result.run_folder, cluster)
    assert report.is_healthy, report
    expected = weights_of(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(result).items())


def test_another_world_size_goes_on_with_what_is_left(
    cluster: ClusterSpec, smoke_job: SmokeJob, scenes: Path, local_cluster: LocalCluster
) -> None:
    stopped = threading.Event()

    def stop_once(progress: Progress) -> None:
        if progress.activity == "train" and progress.done >= 9 and not stopped.is_set():
            stopped.set()
            os.kill(os.getpid(), signal.SIGINT)

    first = run_pretrain(smoke_job("clip", **SETTINGS), cluster, on_progress=stop_once)
    assert first.status == "stopped"
    runs = Path(first.run_folder.removeprefix("file://")).parent
    second = run_pretrain(smoke_job("clip", **SETTINGS), local_cluster(scenes, runs, num_workers=1))
    assert second.status == "finished"
    report = report_run_ledger(second.run_folder, cluster)
    assert report.is_healthy, report
    assert total_rows(report.rows)["trained_once"] == 48 * 16


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
    total = {"expected": 768, "trained_once": 768, "repeated": 0, "skipped": 0, "substituted": 0, "filtered": 0}
    assert document["total"] == {**total, "missing": 0, "unplanned": 0}
    assert [row["epoch"] for row in document["epochs"]] == [0, 1, 2]
    assert "every sample had its turn once" in CliRunner().invoke(app, arguments).output
