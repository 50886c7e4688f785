"""What Prometheus finds at a job that runs."""

import re
import socket
import urllib.request
from collections.abc import Callable

import pytest

from orchestrator.runs.pretrain import run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.tracking.metrics import METRICS
from orchestrator.tracking.prometheus import prometheus_name

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(300)]


def test_a_run_is_scraped_while_it_trains(cluster: ClusterSpec, smoke_job: Callable[..., PretrainSpec]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    place = cluster.model_copy(update={"tracking": cluster.tracking.model_copy(update={"metrics_address": address})})
    pages: list[str] = []

    def scrape(progress: Progress) -> None:
        if progress.activity == "train" and progress.done:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                pages.append(answer.read().decode())

    run_pretrain(smoke_job("clip", name="scraped", evaluation__sets="[]"), place, on_progress=scrape)
    values = dict(re.findall(r'^(\w+)\{[^}]*run="scraped"[^}]*\} (\S+)$', pages[-1], re.MULTILINE))
    assert any("samples_per_s" in name and float(value) > 0 for name, value in values.items()), pages[-1]
    assert any("loss" in name for name in values)
    shown = {name for name in values if name.startswith("orchestrator_")}
    assert shown & {prometheus_name(row) for row in METRICS}, "the names that the dashboard's queries are held against"
