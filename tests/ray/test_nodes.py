"""Two Ray nodes: each reads and decodes for its own ranks, and a global batch is the same as on one.

Run as a script, this file starts a cluster of its own: the tests' session holds a Ray of one node.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NUM_RANKS, RANKS_PER_NODE, NUM_STEPS = 4, 2, 12


def run_cluster(folder: Path) -> None:
    """Read a stream with two ranks on each of two nodes; writes who read what."""
    import ray
    from node_rank import Rank  # a module that the ranks can import too
    from ray.cluster_utils import Cluster

    from orchestrator.runs.session import forked_workers

    cluster = Cluster()
    with forked_workers():
        for _ in range(NUM_RANKS // RANKS_PER_NODE):
            cluster.add_node(num_cpus=4, resources={"trainer": RANKS_PER_NODE}, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    rank_actor = ray.remote(num_cpus=1, resources={"trainer": 1})(Rank)
    ranks = [rank_actor.remote() for _ in range(NUM_RANKS)]
    found = ray.get([rank.read.remote(number, NUM_RANKS, NUM_STEPS, str(folder)) for number, rank in enumerate(ranks)])
    (folder / "found.json").write_text(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("nodes")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.timeout(600)
def test_each_node_reads_for_its_own_ranks(found: list[dict[str, object]]) -> None:
    assert len({rank["node"] for rank in found}) == NUM_RANKS // RANKS_PER_NODE
    for number, rank in enumerate(found):
        assert number in rank["peers"]
        assert len(rank["peers"]) == RANKS_PER_NODE
        assert rank["read_on"] == [rank["node"]]


@pytest.mark.timeout(600)
def test_global_batches_are_those_of_one_node(found: list[dict[str, object]]) -> None:
    for step in range(NUM_STEPS):
        rows = [row for rank in found for row in rank["rows"][step]]
        assert rows == list(range(step * 32, (step + 1) * 32))


if __name__ == "__main__":
    run_cluster(Path(sys.argv[1]))
