"""What `orchestrator render` prints, job by job: valid for the cluster, as filed by meaning, and without a secret."""

import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from manifests import check_manifest, load_manifests
from orchestrator.errors import PlanError
from orchestrator.launch.render import render_job
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import load_cluster, load_job


def two_workers(job: Path) -> list[str]:
    keys = {PretrainSpec: ["workers=2"], CompareSpec: ["run.workers=2"]}
    return keys.get(type(load_job(str(job))), [])


ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SMOKE_JOBS = sorted((ROOT / "jobs" / "smoke").glob("*.yaml"))  # they plan with two workers anywhere
CLIP = ROOT / "jobs" / "pretrain" / "clip-vit-b16-cc3m.yaml"
FULL_JOBS = [
    CLIP,
    ROOT / "jobs" / "pretrain" / "catlip-vit-b16-cc3m.yaml",
    ROOT / "jobs" / "synthetic.yaml",
    *sorted((ROOT / "jobs" / "compare").glob("*.yaml")),
    ROOT / "jobs" / "concepts-cc3m.yaml",
]
JOBS = [
    *(pytest.param(job, two_workers(job), id=f"smoke/{job.stem}") for job in SMOKE_JOBS),
    *(pytest.param(job, [], id=job.stem) for job in FULL_JOBS),
]
PLACES = {
    "kuberay": ROOT / "cluster" / "kuberay",
    "slurm": ROOT / "cluster" / "slurm",
    "autoscaled": Path(__file__).parent / "places" / "autoscaled",
}
PLANTED = "n0t-for-anyone/else+42"


def render(place: str, job: Path = CLIP, *overrides: str) -> str:
    return render_job(load_job(str(job), overrides), load_cluster(str(PLACES[place])))


def meaning(text: str) -> list[Any]:
    """Manifests with the files in them opened too."""
    documents = load_manifests(text)
    for document in documents:
        if document["kind"] == "ConfigMap":
            document["data"] = {name: yaml.safe_load(file) for name, file in document["data"].items()}
    return documents


@pytest.mark.parametrize(("job", "overrides"), JOBS)
def test_every_job_renders_to_manifests_that_the_api_server_takes(job: Path, overrides: list[str]) -> None:
    check_all(render("kuberay", job, *overrides))


def test_what_a_cluster_file_can_ask_for_is_known_to_the_api_server(tmp_path: Path) -> None:
    check_all(render("autoscaled", CLIP, "batch.global_size=6144"))
    check_all(render("autoscaled", ROOT / "jobs" / "smoke" / "compare-scenes.yaml", "run.workers=2"))
    evaluation = tmp_path / "job.yaml"
    evaluation.write_text("kind: evaluate\nname: again\nrun: small\nevaluation: {sets: [imagenet/val]}\n")
    check_all(render("autoscaled", evaluation))


def check_all(text: str) -> None:
    manifests = load_manifests(text)
    assert [manifest["kind"] for manifest in manifests] == ["ConfigMap", "NetworkPolicy", "RayJob"]
    for manifest in reversed(manifests):
        check_manifest(manifest)


def test_a_key_that_the_api_server_would_drop_is_a_mistake() -> None:
    (job,) = [manifest for manifest in load_manifests(render("kuberay")) if manifest["kind"] == "RayJob"]
    job["spec"]["rayClusterSpec"]["authOption"] = {}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        check_manifest(job)


@pytest.mark.parametrize(("place", "overrides"), [("kuberay", []), ("autoscaled", ["batch.global_size=6144"])])
def test_manifests_mean_what_is_filed(place: str, overrides: list[str]) -> None:
    """Renew: orchestrator render ... -o tests/specs/golden/PLACE.yaml, then read the difference."""
    text = render(place, CLIP, *overrides)
    assert meaning(text) == meaning((GOLDEN / f"{place}.yaml").read_text())


@pytest.mark.parametrize(("job", "overrides"), JOBS)
def test_every_job_renders_to_a_script_that_bash_reads(job: Path, overrides: list[str], tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(render("slurm", job, *overrides))
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_a_script_asks_slurm_for_what_the_plan_takes() -> None:
    lines = render("slurm").splitlines()
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
    assert {"nodes=4", "gpus-per-node=8", "cpus-per-task=96", "mem=1000G", "partition=gpu"} <= set(options)
    assert {"time=2-00:00:00", "signal=B:USR1@300", "requeue", "exclusive"} <= set(options)
    one_node = render("slurm", CLIP, "workers=8").splitlines()
    assert "#SBATCH --nodes=1" in one_node


def test_a_shell_reads_job_and_cluster_as_they_are() -> None:
    """A name with quotes, a variable and a command in it reaches the job file as it stands."""
    text = render("slurm", CLIP, "experiment=it's $HOME `id`")
    variables, _, _ = text.partition("set -euo pipefail")
    variables = "\n".join(line for line in variables.splitlines() if not line.startswith("source "))
    read = subprocess.run(
        ["bash", "-c", f'{variables}\nprintf %s "$job_yaml"'], capture_output=True, text=True, check=True
    )
    assert yaml.safe_load(read.stdout)["experiment"] == "it's $HOME `id`"


@pytest.mark.parametrize("place", list(PLACES))
def test_a_planted_secret_is_in_nothing_that_is_rendered(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, PLANTED)
    job = CLIP
    assert PLANTED not in render(place, job, "batch.global_size=6144")
    with pytest.raises(PlanError, match="would hold a secret") as caught:
        render(place, job, "batch.global_size=6144", f"experiment={PLANTED}")
    assert PLANTED not in str(caught.value)
    with pytest.raises(PlanError, match="would hold a secret"):
        render(place, job, "batch.global_size=6144", "text.tokenizer=https://me:hunter2@hub.example.org/x")
