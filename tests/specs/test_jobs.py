"""Every job file with every cluster folder: it plans, or is refused for the reason named here."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.errors import PlanError
from orchestrator.objectives.table import objective_class
from orchestrator.spec.capacity import estimate_capacity
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.describe import describe_plan, describe_prepare
from orchestrator.spec.describe_capacity import describe_capacity
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts
from orchestrator.spec.installed import own_names
from orchestrator.spec.job import PrepareSpec, PretrainSpec
from orchestrator.spec.load import load_cluster, load_job
from orchestrator.spec.objective import ObjectiveSpec
from orchestrator.spec.plan import Plan, load_plan
from orchestrator.spec.resolve import resolve_plan

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").rglob("*.yaml"))
CLUSTERS = sorted((ROOT / "cluster").glob("*/cluster.yaml"))
MOST_LINES = 40

NUM_CORES = {"laptop": 2, "single-node": 96, "gpu-cluster": 96, "kuberay": 2, "slurm": 2}  # of the machine that plans
NUM_SAMPLES = {"scenes": 4_000, "cc3m": 2_905_954, "wit": 400_000_000, "datacomp": 1_280_000_000}

# A batch of 2,048 images of 224 pixels over two workers makes a micro batch of 147 MiB; the small jobs' batches are
# smaller than the number of devices of the clusters, and the largest jobs ask for more workers than other places have.
TOO_LARGE_A_BLOCK = r"use more workers, or a smaller batch\.micro_size"
TOO_MANY_WORKERS = r"workers is \d+, but cluster '[a-z-]+' offers \d+"
TOO_SMALL_A_BATCH = r"does not divide by (256|32) workers; use .*, or workers: \d+|nearest that does is 1"
ONE_NODE = {"clip-vit-b16-cc3m", "catlip-vit-b16-cc3m", "synthetic"}
NUM_WORKERS = {"laptop": 2, "single-node": 8, "kuberay": 32, "slurm": 32, "gpu-cluster": 256}


def refusal(job_file: Path, cluster: str) -> str | None:
    """What a job is refused for on a cluster; none: it plans."""
    if job_file.parent.name == "smoke" or job_file.stem.endswith("scenes"):
        job = load_job(str(job_file))
        assert isinstance(job, PretrainSpec)
        fits = job.batch.global_size % (NUM_WORKERS[cluster] * (job.batch.micro_size or 1)) == 0
        return None if fits else TOO_SMALL_A_BATCH
    if job_file.stem in ONE_NODE:
        return TOO_LARGE_A_BLOCK if cluster == "laptop" else None
    return None if cluster == "gpu-cluster" else TOO_MANY_WORKERS


def facts_for(job: PretrainSpec, cluster: ClusterSpec) -> Facts:
    cores = NUM_CORES[cluster.name]
    machine = MachineFacts(num_cores=cores, num_cpus=cluster.ray.num_cpus or 2 * cores, decoder="pillow 13.0.0")
    if job.data.kind == "synthetic":
        return Facts(machine=machine)
    num_samples = NUM_SAMPLES[job.data.train.split("/")[0]]
    train = ShardsFacts(uri=str(job.data.train), digest="0" * 16, num_shards=9, num_samples=num_samples, bytes=10**9)
    return Facts(machine=machine, train=(train,))


def plan(job_file: Path, cluster_file: Path) -> Plan:
    job, cluster = load_job(str(job_file)), load_cluster(str(cluster_file))
    assert isinstance(job, PretrainSpec)
    return resolve_plan(job, cluster, facts_for(job, cluster))


PRETRAIN = [file for file in JOBS if isinstance(load_job(str(file)), PretrainSpec)]
PREPARE = [file for file in JOBS if isinstance(load_job(str(file)), PrepareSpec)]
PAIRS = [
    pytest.param(job_file, cluster_file, id=f"{job_file.relative_to(ROOT / 'jobs')}-{cluster_file.parent.name}")
    for job_file in PRETRAIN
    for cluster_file in CLUSTERS
]


@pytest.mark.parametrize(("job_file", "cluster_file"), PAIRS)
def test_a_job_plans_on_a_cluster_or_is_refused_for_a_named_reason(job_file: Path, cluster_file: Path) -> None:
    reason = refusal(job_file, cluster_file.parent.name)
    if reason is not None:
        with pytest.raises(PlanError, match=reason):
            plan(job_file, cluster_file)
        return
    resolved = plan(job_file, cluster_file)
    assert resolved.batch.global_size == (resolved.workers.count * resolved.batch.num_micro * resolved.batch.micro_size)
    assert load_plan(resolved.model_dump_json(), "plan.json") == resolved
    assert all(text for _, text in describe_plan(resolved))
    capacity = estimate_capacity(resolved, load_cluster(str(cluster_file)))
    assert all(text for _, text in describe_capacity(resolved, capacity))
    assert json.loads(json.dumps(capacity.to_dict()))["memory"]["1"]["total"] == capacity.memory[1].total


@pytest.mark.parametrize("job_file", JOBS, ids=lambda file: str(file.relative_to(ROOT / "jobs")))
def test_a_job_file_is_short_and_says_what_it_is(job_file: Path) -> None:
    lines = job_file.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert lines[0].startswith("# ")
    assert load_job(str(job_file)).name.endswith(job_file.stem), "a run is called as its file"


def test_every_job_has_a_small_form_with_the_same_objective_that_plans_on_a_laptop() -> None:
    full = [file for file in PRETRAIN if file.parent.name != "smoke"]
    assert len(full) >= 11
    for file in full:
        small = ROOT / "jobs" / "smoke" / file.name
        large_job, small_job = load_job(str(file)), load_job(str(small))
        assert isinstance(large_job, PretrainSpec)
        assert isinstance(small_job, PretrainSpec)
        assert small_job.objective.name == large_job.objective.name
        assert small_job.data.kind == large_job.data.kind
        assert small_job.budget.steps is not None
        assert small_job.budget.steps <= 10
        assert small_job.name != large_job.name


@pytest.mark.parametrize("name", ["catlip-vit-b16", "catlip-vit-l16", "catlip-vit-h16"])
def test_steps_of_catlips_recipes_are_of_equal_work_at_corenets_sizes(name: str) -> None:
    resolved = plan(ROOT / "jobs" / "pretrain" / f"{name}.yaml", ROOT / "cluster" / "gpu-cluster" / "cluster.yaml")
    (phase,) = resolved.phases
    assert [size for size, _ in phase.sizes] == list(range(128, 321, 16))
    assert resolved.batch.mean_size(0, resolved.steps) == pytest.approx(1.27 * 65_536, rel=0.02)
    for size, samples in phase.sizes:
        assert samples * size**2 == pytest.approx(65_536 * 224**2, rel=0.09)


def test_catlips_recipes_have_corenets_optimizer() -> None:
    """Its AdamW adds 1e-8 where CLIP's adds 1e-6, which is more than the gradients of rare concepts' rows."""
    files = sorted((ROOT / "jobs" / "pretrain").glob("catlip-*.yaml"))
    jobs = [load_job(str(file)) for file in files]
    assert len(jobs) == 4
    for job in jobs:
        assert isinstance(job, PretrainSpec)
        assert (job.optimizer.betas, job.optimizer.eps, job.optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.2)


@pytest.mark.parametrize("job_file", PREPARE, ids=lambda file: str(file.relative_to(ROOT / "jobs")))
def test_a_prepare_job_says_what_it_does_and_has_a_small_form(job_file: Path) -> None:
    job = load_job(str(job_file))
    assert isinstance(job, PrepareSpec)
    assert all(text for _, text in describe_prepare(job, load_cluster(str(CLUSTERS[0]))))
    assert (ROOT / "jobs" / "smoke" / job_file.name).exists()


def test_no_two_jobs_share_a_run_name() -> None:
    names = [load_job(str(file)).name for file in JOBS]
    assert len(set(names)) == len(names)


def test_every_cluster_folder_has_its_own_name() -> None:
    assert {load_cluster(str(file)).name for file in CLUSTERS} == {file.parent.name for file in CLUSTERS}
    assert set(NUM_CORES) == {file.parent.name for file in CLUSTERS}


def test_every_objective_of_ours_has_its_code_and_a_small_job() -> None:
    small = {job.objective.name for job in map(load_job, map(str, JOBS)) if isinstance(job, PretrainSpec)}
    assert set(own_names()) == small
    for spec in get_args(get_args(ObjectiveSpec)[0]):
        assert objective_class(spec).columns == spec.columns


def test_a_job_never_says_where_and_a_cluster_never_says_what() -> None:
    assert not set(PretrainSpec.model_fields) & {"storage", "ray", "tracking"}
    for file in JOBS:
        assert not re.search(r"://|\bcuda\b|^\s*runs:", file.read_text().split("\n", 1)[1], re.MULTILINE)
