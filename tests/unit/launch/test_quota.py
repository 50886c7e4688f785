"""What a job's pods ask for against its queue: what could never be admitted is refused, and nothing else."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import PlanError
from orchestrator.launch.kueue import parse_quantity
from orchestrator.launch.quota import check_quota
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.launch_plan import resolve_launch
from orchestrator.spec.load import load_cluster
from orchestrator.spec.yaml_file import MAX_FILE_BYTES

ROOT = Path(__file__).parents[3]
KUBERAY = ROOT / "cluster" / "kuberay"
JOB: dict[str, Any] = {
    "kind": "pretrain",
    "name": "small",
    "objective": {"name": "siglip"},
    "data": {"kind": "synthetic", "num_samples": 100_000},
    "model": {"preset": "vit_b16"},
    "batch": {"global_size": 2048},
    "budget": {"steps": 10},
    "optimizer": {"learning_rate": 1e-3},
}

Documents = dict[str, dict[str, Any]]
"""Manifests of the queue, by kind and name."""


@pytest.fixture
def shipped() -> Documents:
    documents = yaml.safe_load_all((KUBERAY / "queue.yaml").read_text())
    return {f"{document['kind']} {document['metadata']['name']}": document for document in documents}


def write_queue(documents: Documents, folder: Path) -> Path:
    file = folder / "queue.yaml"
    file.write_text(yaml.safe_dump_all(documents.values()))
    return file


def check(documents: Documents, folder: Path, launch: dict[str, Any] | None = None, **job: Any) -> str | None:
    return check_without(write_queue(documents, folder), launch, **job)


def check_without(file: Path, launch: dict[str, Any] | None = None, **job: Any) -> str | None:
    cluster = load_cluster(str(KUBERAY)).model_dump(mode="json", exclude_unset=True)
    cluster["launch"].update(launch or {})
    place = ClusterSpec.model_validate(cluster)
    return check_quota(resolve_launch(PretrainSpec.model_validate({**JOB, **job}), place), place, file)


def quotas(documents: Documents, flavor: str = "h100-spot") -> dict[str, dict[str, Any]]:
    """Of a flavor of the shipped queue, by resource, to change."""
    (group,) = documents["ClusterQueue training"]["spec"]["resourceGroups"]
    (found,) = [each for each in group["flavors"] if each["name"] == flavor]
    return {resource["name"]: resource for resource in found["resources"]}


def test_the_shipped_queue_holds_the_job_that_fills_its_cluster(shipped: Documents, tmp_path: Path) -> None:
    said = check(shipped, tmp_path)
    assert said is not None
    assert said.startswith("queue 'training' can hold it")
    # Four nodes of the group, the head and the submitter.
    for amount in (f"{4 * 96 + 8 + 1} cpu", "4,162 GiB memory", "32 nvidia.com/gpu", "128 vpc.amazonaws.com/efa"):
        assert amount in said


@pytest.mark.parametrize(
    ("flavor", "resource", "quota", "said"),
    [
        (
            "h100-spot",
            "nvidia.com/gpu",
            24,
            ["32 nvidia.com/gpu of h100-spot", "is 24 ", "8 nvidia.com/gpu are missing"],
        ),
        ("h100-spot", "memory", "4000Gi", ["4,096 GiB memory of h100-spot", "96 GiB memory are missing"]),
        ("h100-spot", "cpu", "383500m", ["384 cpu of h100-spot", "0.5 cpu are missing"]),
        ("on-demand", "cpu", 8, ["9 cpu of on-demand", "1 cpu are missing"]),  # the submitter counts too
        ("h100-spot", "vpc.amazonaws.com/efa", 0, ["128 vpc.amazonaws.com/efa are missing"]),
    ],
)
def test_what_can_never_be_admitted_is_refused_with_the_number_missing(
    shipped: Documents, tmp_path: Path, flavor: str, resource: str, quota: Any, said: list[str]
) -> None:
    quotas(shipped, flavor)[resource]["nominalQuota"] = quota
    with pytest.raises(PlanError) as caught:
        check(shipped, tmp_path)
    for part in [*said, str(tmp_path / "queue.yaml"), "queue 'training' can never admit", "nominalQuota"]:
        assert part in str(caught.value)


def test_a_smaller_job_fits_the_queue_that_is_too_small_for_a_larger_one(shipped: Documents, tmp_path: Path) -> None:
    quotas(shipped)["nvidia.com/gpu"]["nominalQuota"] = 16
    with pytest.raises(PlanError, match=r"16 nvidia\.com/gpu are missing"):
        check(shipped, tmp_path)
    assert "16 nvidia.com/gpu" in str(check(shipped, tmp_path, workers=16))


def test_pods_that_may_go_to_several_flavors_have_the_quota_of_all(shipped: Documents, tmp_path: Path) -> None:
    """Without markets nothing says which nodes: what one flavor lacks, another may have."""
    anywhere = {"markets": {}, "groups": [{"name": "any", "nodes": 4, "workers": 8, "cpus": 96, "memory": "1024Gi"}]}
    for name in ("h100-spot", "on-demand"):
        quotas(shipped, name)["nvidia.com/gpu"]["nominalQuota"] = 16
        quotas(shipped, name)["vpc.amazonaws.com/efa"]["nominalQuota"] = 128
        quotas(shipped, name)["cpu"]["nominalQuota"] = 384
        quotas(shipped, name)["memory"]["nominalQuota"] = "4Ti"
    assert check(shipped, tmp_path, anywhere) is not None
    quotas(shipped, "on-demand")["nvidia.com/gpu"]["nominalQuota"] = 15
    with pytest.raises(PlanError, match=r"of h100-spot and on-demand, whose quota is 31 .*: 1 nvidia\.com/gpu are"):
        check(shipped, tmp_path, anywhere)


def test_a_queue_that_may_borrow_ends_at_its_limit(shipped: Documents, tmp_path: Path) -> None:
    gpus = quotas(shipped)["nvidia.com/gpu"]
    gpus["nominalQuota"] = 8
    shipped["ClusterQueue training"]["spec"]["cohort"] = "everyone"
    assert check(shipped, tmp_path) is not None
    gpus["borrowingLimit"] = 16
    with pytest.raises(PlanError, match=r"whose quota is 24 nvidia\.com/gpu: 8 "):
        check(shipped, tmp_path)


def without_device(documents: Documents) -> None:
    (group,) = documents["ClusterQueue training"]["spec"]["resourceGroups"]
    for flavor in group["flavors"]:
        flavor["resources"] = [resource for resource in flavor["resources"] if resource["name"] != "nvidia.com/gpu"]


def other_nodes(documents: Documents) -> None:
    documents["ResourceFlavor h100-spot"]["spec"]["nodeLabels"]["nvidia.com/gpu.product"] = "A100"


def no_quotas(documents: Documents) -> None:
    del documents["ClusterQueue training"]["spec"]["resourceGroups"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("LocalQueue training"), "no LocalQueue 'training' in namespace training"),
        (
            lambda found: found["LocalQueue training"]["metadata"].update(namespace="other"),
            "no LocalQueue 'training' in namespace training",
        ),
        (lambda found: found.pop("ClusterQueue training"), "no ClusterQueue 'training', which LocalQueue"),
        (without_device, "no quota for 32 nvidia.com/gpu, which the job's pods ask for"),
        (no_quotas, "no quota for 393 cpu, 4,162 GiB memory"),
        (other_nodes, "no flavor of nodes with karpenter.sh/capacity-type=spot, nvidia.com/gpu.product=NVIDIA-H100"),
        (lambda found: quotas(found)["cpu"].update(nominalQuota="many"), "does not read as manifests of a Kueue queue"),
        (lambda found: found["LocalQueue training"].pop("spec"), "does not read as manifests of a Kueue queue"),
    ],
)
def test_a_queue_without_its_parts_is_refused_by_name(
    shipped: Documents, tmp_path: Path, change: Any, said: str
) -> None:
    change(shipped)
    with pytest.raises(PlanError) as caught:
        check(shipped, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "queue.yaml") in str(caught.value)


@pytest.mark.parametrize("content", ["- a\n- b\n", "{", "kind: LocalQueue\n", "#" * (MAX_FILE_BYTES + 1)])
def test_a_file_that_is_no_queue_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "queue.yaml").write_text(content)
    with pytest.raises(PlanError, match=r"queue\.yaml: does not read as manifests of a Kueue queue"):
        check_without(tmp_path / "queue.yaml")


def test_no_file_refuses_nothing_and_says_that_the_quota_is_not_known(tmp_path: Path) -> None:
    said = check_without(tmp_path / "queue.yaml")
    assert said is not None
    assert f"its quota is not known, there is no {tmp_path / 'queue.yaml'}; pods ask for" in said
    assert check_without(tmp_path / "queue.yaml", {"queue": None}) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [(8, 8), ("500m", Fraction(1, 2)), ("1.5Gi", 3 * 2**29), ("2k", 2000), ("1e3", 1000), ("4Ti", 2**42), ("3M", 3e6)],
)
def test_quantities_read_as_kubernetes_reads_them(text: object, number: Any) -> None:
    assert parse_quantity(text) == number


def test_plan_check_and_render_all_hold_the_job_against_the_queue(
    shipped: Documents, tmp_path: Path, s3_server: Any
) -> None:
    place = load_cluster(str(KUBERAY)).model_dump(mode="json", exclude_unset=True)
    uris = {"data": f"{s3_server.uri}/data", "runs": f"{s3_server.uri}/runs", "s3": {"endpoint": s3_server.endpoint}}
    place |= {"storage": uris, "tracking": {"uri": "http://127.0.0.1:9"}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(place))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))

    def say(command: str) -> tuple[str, BaseException | None]:
        done = CliRunner().invoke(app, [command, str(tmp_path / "job.yaml"), "--cluster", str(tmp_path)])
        return done.output, done.exception

    assert re.search("quota +queue 'training': its quota is not known", say("plan")[0])
    assert say("render")[1] is None
    write_queue(shipped, tmp_path)
    for command in ("plan", "check"):
        assert re.search("quota.*queue 'training' can hold it; pods ask for 393 cpu", say(command)[0]), command
    quotas(shipped)["nvidia.com/gpu"]["nominalQuota"] = 24
    write_queue(shipped, tmp_path)
    for command in ("plan", "render"):
        error = say(command)[1]
        assert isinstance(error, PlanError)
        assert "8 nvidia.com/gpu are missing" in str(error)
    output, error = say("check")
    assert isinstance(error, SystemExit)
    assert re.search(r"quota.*8 nvidia\.com/gpu are missing", output)
