"""Every comparison with every cluster folder: it plans, or is refused for the reason named here."""

from pathlib import Path

import pytest

from orchestrator.errors import PlanError
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_plan import ComparePlan
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.describe_compare import describe_compare
from orchestrator.spec.evaluation import set_name
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts
from orchestrator.spec.load import load_cluster, load_job
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare
from orchestrator.spec.targets import TargetSpec

ROOT = Path(__file__).parents[2]
CLUSTERS = sorted((ROOT / "cluster").glob("*/cluster.yaml"))
JOBS = [file for file in sorted((ROOT / "jobs").rglob("*.yaml")) if isinstance(load_job(str(file)), CompareSpec)]
NUM_SAMPLES = {"scenes": 4_000, "cc3m": 2_905_954}
NUM_CORES = {"laptop": 2, "single-node": 96, "gpu-cluster": 96, "kuberay": 2, "slurm": 2}
TOO_MANY_WORKERS = r"run\.workers is \d, but cluster 'laptop' offers 2"


def load(file: Path) -> CompareSpec:
    job = load_job(str(file))
    assert isinstance(job, CompareSpec)
    return job


def plan(job_file: Path, cluster_file: Path) -> ComparePlan:
    job, cluster = load(job_file), load_cluster(str(cluster_file))
    assert job.run.data.kind == "shards"
    train = str(job.run.data.train)
    cores = NUM_CORES[cluster.name]
    machine = MachineFacts(num_cores=cores, num_cpus=cluster.ray.num_cpus or 2 * cores, decoder="d")
    num_samples = NUM_SAMPLES[train.split("/")[0]]
    shards = ShardsFacts(uri=train, digest="0" * 16, num_shards=9, num_samples=num_samples, bytes=10**9)
    facts = {entry.label: Facts(machine=machine, train=(shards,)) for entry in job.objectives}
    shape = TargetSpec(classes=("cube", "ball"), named_in_captions=True, templates=("a {}",))
    targets = {set_name(location): {"shape": shape} for location in job.run.evaluation.sets}
    return resolve_compare(job, cluster, CompareFacts(facts, AskedFacts(targets)))


@pytest.mark.parametrize("cluster_file", CLUSTERS, ids=lambda file: file.parent.name)
@pytest.mark.parametrize("job_file", JOBS, ids=lambda file: file.stem)
def test_a_comparison_plans_on_a_cluster_or_is_refused_for_a_named_reason(job_file: Path, cluster_file: Path) -> None:
    cluster = load_cluster(str(cluster_file))
    if job_file.parent.name == "compare" and cluster.name == "laptop":
        with pytest.raises(PlanError, match=TOO_MANY_WORKERS):
            plan(job_file, cluster_file)
        return
    resolved = plan(job_file, cluster_file)
    assert 1 <= resolved.share.at_once * resolved.share.workers <= cluster.workers.count
    assert all(text for _, text in describe_compare(resolved))
    assert ComparePlan.model_validate_json(resolved.model_dump_json()).digest == resolved.digest


def test_every_comparison_has_a_small_form_of_the_same_kinds() -> None:
    full = [file for file in JOBS if file.parent.name != "smoke"]
    assert len(full) >= 3
    for file in full:
        large, small = load(file), load(ROOT / "jobs" / "smoke" / file.name)
        assert small.mode == large.mode
        assert small.weights == large.weights
        assert {entry.objective.name for entry in small.objectives} == {
            entry.objective.name for entry in large.objectives
        }
        assert (small.search is None) == (large.search is None)


def test_the_demo_s_runs_go_on_two_at_a_time_on_two_cores() -> None:
    resolved = plan(ROOT / "jobs/compare-scenes.yaml", ROOT / "cluster/laptop/cluster.yaml")
    assert resolved.share.at_once == 2
    assert len(resolved.trials) == 9
    assert resolved.same_order
