"""One Ray for all tests of this tier, small scenes, and jobs that finish in seconds."""

import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.env import apply_quiet_env
from ray_processes import ray_processes

apply_quiet_env()

from orchestrator.data.scenes.write import write_scenes
from orchestrator.runs.pretrain import PretrainResult, run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.runs.session import start_local_ray
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import load_job

ROOT = Path(__file__).parents[2]
LONGEST = ("test_submit.py", "test_compare.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: started last, one would go on while nothing is left to do beside it."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def ray_local(s3_server: Any) -> Iterator[None]:
    """A local Ray with four logical CPUs, stopped at the end of the session.

    After the S3 server, whose credentials workers inherit from the environment.
    """
    assert s3_server
    import ray

    start_local_ray(num_cpus=4, object_store_bytes=512 * 2**20, forked=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ``scenes/{train,val,eval}``; tests do not change it."""
    root = tmp_path_factory.mktemp("data")
    write_scenes(str(root / "scenes"), num_train=320, num_eval=160, seed=0, samples_per_shard=80)
    return root


@pytest.fixture
def cluster(scenes: Path, tmp_path: Path) -> ClusterSpec:
    """Two CPU workers; data from the shared scenes, runs in the test's own folder."""
    return _local_cluster(scenes, tmp_path / "runs")


@pytest.fixture(scope="session")
def local_cluster() -> Callable[..., ClusterSpec]:
    """``local_cluster(data, runs, num_workers=2)``: CPU workers on this machine."""
    return _local_cluster


@pytest.fixture(scope="session")
def train_worker_pids() -> Callable[[], list[int]]:
    """Asks for the processes of the live training workers that this process's Ray started."""
    return _train_worker_pids


def _local_cluster(data: Path, runs: Path, num_workers: int = 2) -> ClusterSpec:
    return ClusterSpec.model_validate(
        {
            "name": "test",
            "workers": {"count": num_workers, "accelerator": "cpu"},
            "ray": {"num_cpus": 4, "object_store_bytes": 512 * 2**20},
            "storage": {"data": data.as_uri(), "runs": runs.as_uri()},
        }
    )


@pytest.fixture(scope="session")
def smoke_job() -> Callable[..., PretrainSpec]:
    """``smoke_job("clip", steps=6)``: the small form of a scenes job, with dotted settings as keywords."""

    def load(objective: str, **settings: Any) -> PretrainSpec:
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        job = load_job(str(ROOT / "jobs" / "smoke" / f"{objective}-scenes.yaml"), overrides)
        assert isinstance(job, PretrainSpec)
        return job

    return load


@pytest.fixture(scope="session")
def clip_pages() -> list[str]:
    """What Prometheus found at ``clip_result`` while it trained."""
    return []


@pytest.fixture(scope="session")
def clip_result(
    ray_local: None,
    scenes: Path,
    smoke_job: Callable[..., PretrainSpec],
    tmp_path_factory: pytest.TempPathFactory,
    clip_pages: list[str],
) -> PretrainResult:
    """A CLIP run that nothing happens to, for tests that look at it or compare with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = _local_cluster(scenes, tmp_path_factory.mktemp("runs"))
    tracking = cluster.tracking.model_copy(update={"metrics_address": address})

    def scrape(progress: Progress) -> None:
        if progress.activity == "train" and progress.done:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                clip_pages.append(answer.read().decode())

    job = smoke_job("clip", ema__decay=0.9)
    return run_pretrain(job, cluster.model_copy(update={"tracking": tracking}), on_progress=scrape)


@pytest.fixture(scope="session")
def clip_cluster(clip_result: PretrainResult, scenes: Path) -> ClusterSpec:
    """The cluster that holds ``clip_result``."""
    return _local_cluster(scenes, Path(clip_result.run_folder.removeprefix("file://")).parent)


def _train_worker_pids() -> list[int]:
    return [process.pid for process in ray_processes(os.getpid(), "RayTrainWorker")]
