"""Nodes lost under a running job: that of a worker, then the one that decodes; others come, and the run goes on.

Run as a script, this file starts a cluster of its own, which asks for a token: a head without work, two nodes that
hold one worker each, and one without workers that reads and decodes for both.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.ledger_report import total_rows
from orchestrator.data.scenes.write import write_scenes
from orchestrator.env import apply_quiet_env, setup_logging
from orchestrator.runs.ledger import report_run_ledger
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.load import load_job

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STEPS, GLOBAL_SIZE, KILLS = 60, 16, (15, 40)
SETTINGS = [
    f"budget.steps={STEPS}",
    f"batch.global_size={GLOBAL_SIZE}",
    "checkpoint.every_steps=8",
    "evaluation.sets=[]",
    "data.heldout=null",
]
STORE_BYTES = 100 * 2**20
TRAINER = {"num_cpus": 2, "object_store_memory": STORE_BYTES}  # what a worker holds, so that no task fits beside it
DECODER = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "labels": {"role": "decode"}}


def cluster_of(folder: Path) -> ClusterSpec:
    return ClusterSpec.model_validate(
        {
            "name": "nodes",
            "workers": {"count": 2, "accelerator": "cpu", "cpus": 2},
            "ray": {
                "address": "auto",
                "num_cpus": 5,
                "object_store_bytes": STORE_BYTES,
                "ingest_labels": DECODER["labels"],
            },
            "storage": {"data": (folder / "data").as_uri(), "runs": (folder / "runs").as_uri()},
        }
    )


class NodeKiller:
    """Kills each node at its step, and adds another like it; in the driver's thread, since Ray wants its signals."""

    def __init__(self, cluster: Any, victims: dict[int, tuple[Any, dict[str, Any]]]) -> None:
        self._cluster, self._victims = cluster, victims

    def __call__(self, progress: Any) -> None:
        due = [step for step in self._victims if progress.activity == "train" and progress.done >= step]
        for step in due:
            node, kind = self._victims.pop(step)
            self._cluster.remove_node(node, allow_graceful=False)
            self._cluster.add_node(**kind)

    @property
    def num_left(self) -> int:
        return len(self._victims)


def run_on_nodes(folder: Path) -> None:
    """Train while nodes go and come; writes what happened."""
    import ray
    from ray.cluster_utils import Cluster

    from orchestrator.runs.pretrain import run_pretrain

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    trainers = [cluster.add_node(**TRAINER), cluster.add_node(**TRAINER)]
    decoder = cluster.add_node(**DECODER)
    killer = NodeKiller(cluster, {KILLS[0]: (trainers[1], TRAINER), KILLS[1]: (decoder, DECODER)})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    job = load_job(str(ROOT / "jobs/smoke/clip-scenes.yaml"), SETTINGS)
    result = run_pretrain(job, cluster_of(folder), on_progress=killer)
    found = {"run": result.run_folder, "step": result.step, "nodes_left_to_kill": killer.num_left}
    (folder / "found.json").write_text(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()


def test_nodes_that_go_are_replaced_and_every_sample_is_trained_once(tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "data" / "scenes"), num_train=320, num_eval=80, seed=0, samples_per_shard=80)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24)}
    command = [sys.executable, __file__, str(tmp_path)]
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=880)
    said = (tmp_path / "log").read_text()
    assert done.returncode == 0, said
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["step"], found["nodes_left_to_kill"]) == (STEPS, 0)
    assert "a worker or its node was lost" in said
    report = report_run_ledger(found["run"], cluster_of(tmp_path))
    assert report.is_healthy, report
    assert total_rows(report.rows)["trained_once"] == STEPS * GLOBAL_SIZE


if __name__ == "__main__":
    apply_quiet_env()
    setup_logging()
    run_on_nodes(Path(sys.argv[1]))
