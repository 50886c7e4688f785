"""A RayJob's parts, each by what it is for."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import JobFileError, PlanError
from orchestrator.launch.kuberay import MOST_NAME_CHARACTERS, RUN_KEY, kubernetes_name
from orchestrator.launch.render import render_job
from orchestrator.redaction import SECRETS_ENV
from orchestrator.runs.pretrain import run_pretrain
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.kinds import Job, JobSpec
from orchestrator.spec.load import load_cluster

JOB: dict[str, Any] = {
    "kind": "pretrain",
    "name": "small",
    "objective": {"name": "clip"},
    "data": {"kind": "shards", "train": "scenes/train"},
    "model": {"preset": "vit_b16"},
    "batch": {"global_size": 2048},
    "budget": {"steps": 10},
    "optimizer": {"learning_rate": 1e-3},
}
COMPARISON: dict[str, Any] = {
    "kind": "compare",
    "name": "two",
    "mode": "controlled",
    "objectives": [
        {"label": "clip", "objective": {"name": "clip"}},
        {"label": "siglip", "objective": {"name": "siglip", "towers": "clip"}},
    ],
    "budget": {"steps": 10},
    "primary_metric": "eval/scenes-val/linear_probe/shape/accuracy",
    "run": {
        **{key: JOB[key] for key in ("data", "model", "optimizer")},
        "batch": {"global_size": 2048},
        "evaluation": {"sets": ["scenes/val"]},
    },
}
GROUP: dict[str, Any] = {"name": "gpu", "nodes": 4, "workers": 8, "cpus": 96, "memory": "512Gi", "object_store": "64Gi"}
LAUNCH: dict[str, Any] = {"kind": "kuberay", "namespace": "training", "image": "registry/x:1", "groups": [GROUP]}
CLUSTER: dict[str, Any] = {
    "name": "here",
    "workers": {"count": 32, "accelerator": "cuda"},
    "storage": {"data": "s3://data", "runs": "s3://runs"},
    "tracking": {"uri": "http://mlflow:5000"},
}


def cluster(launch: dict[str, Any] | None = None, **sections: Any) -> ClusterSpec:
    return ClusterSpec.model_validate({**CLUSTER, **sections, "launch": {**LAUNCH, **(launch or {})}})


def ray_job(place: ClusterSpec, **job: Any) -> dict[str, Any]:
    return ray_job_of({**JOB, **job}, place)


def ray_job_of(job: dict[str, Any], place: ClusterSpec) -> dict[str, Any]:
    text = render_job(TypeAdapter[Job](JobSpec).validate_python(job), place)
    (found,) = [document for document in yaml.safe_load_all(text) if document["kind"] == "RayJob"]
    return found


def pod_of(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]


def head_of(place: ClusterSpec) -> dict[str, Any]:
    return pod_of(ray_job(place)["spec"]["rayClusterSpec"]["headGroupSpec"])


def groups_of(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def test_the_head_does_no_work_and_stays_on_demand() -> None:
    markets = {"on_demand": {"node_selector": {"pay": "always"}}, "spot": {"node_selector": {"pay": "spot"}}}
    job = ray_job(cluster({"markets": markets, "groups": [{**GROUP, "market": "spot"}]}))
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert pod_of(head)["nodeSelector"] == {"pay": "always"}
    assert pod_of(groups_of(job)["gpu"])["nodeSelector"] == {"pay": "spot"}
    assert job["spec"]["submitterPodTemplate"]["spec"]["nodeSelector"] == {"pay": "always"}


def test_a_job_says_which_run_it_is_and_its_entry_point_is_one_plain_command() -> None:
    """The operator puts it into a line of the submitter's shell, where an operator of the shell would act."""
    spec = ray_job(cluster())["spec"]
    assert spec["metadata"] == {RUN_KEY: "small"}
    assert shlex.join(shlex.split(spec["entrypoint"])) == spec["entrypoint"]
    assert "launch.entrypoint run /etc/orchestrator/job.yaml" in spec["entrypoint"]


def test_tokens_are_asked_of_every_connection() -> None:
    assert ray_job(cluster())["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(("workers", "nodes"), [(32, 4), (16, 2), (4, 1)])
def test_a_job_takes_the_nodes_that_it_needs(workers: int, nodes: int) -> None:
    group = groups_of(ray_job(cluster(), workers=workers, batch={"global_size": 64 * workers}))["gpu"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (nodes, nodes, nodes)


def test_a_group_that_is_not_needed_any_more_is_not_taken() -> None:
    place = cluster({"groups": [GROUP, {**GROUP, "name": "next", "workers": 4}]})
    groups = groups_of(ray_job(place, workers=2, batch={"global_size": 128}))
    assert [(name, group["replicas"]) for name, group in groups.items()] == [("gpu", 1)]


def test_a_queue_makes_a_job_of_fixed_size() -> None:
    job = ray_job(cluster({"queue": "training"}))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_an_autoscaler_has_its_bounds_and_its_api() -> None:
    job = ray_job(cluster({"autoscaler": {}, "groups": [{**GROUP, "min_nodes": 1}]}))
    spec = job["spec"]["rayClusterSpec"]
    assert (spec["enableInTreeAutoscaling"], spec["autoscalerOptions"]["version"]) == (True, "v2")
    (head,) = pod_of(spec["headGroupSpec"])["containers"]
    [shared] = spec["autoscalerOptions"]["volumeMounts"]  # it logs below the head's temporary folder
    assert shared in head["volumeMounts"]
    assert {"name": "TMPDIR", "value": shared["mountPath"]} in head["env"]
    group = groups_of(job)["gpu"]
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 4)
    assert pod_of(spec["headGroupSpec"])["automountServiceAccountToken"] is True
    assert pod_of(group)["automountServiceAccountToken"] is False


def test_shared_memory_follows_from_what_the_plan_puts_into_the_object_store() -> None:
    sizes = []
    for global_size in (512, 2048):
        group = groups_of(ray_job(cluster(), batch={"global_size": global_size}))["gpu"]
        (volume,) = [volume for volume in pod_of(group)["volumes"] if volume["name"] == "shared-memory"]
        assert volume["emptyDir"]["medium"] == "Memory"
        sizes.append(int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20)
        assert int(group["rayStartParams"]["object-store-memory"]) < sizes[-1]
    assert sizes[0] < sizes[1]


def test_spilled_objects_and_files_on_their_way_go_to_the_local_disk() -> None:
    group = groups_of(ray_job(cluster({"scratch": "1Ti"})))["gpu"]
    (container,) = pod_of(group)["containers"]
    assert group["rayStartParams"]["object-spilling-directory"].startswith("/scratch/")
    assert {"name": "TMPDIR", "value": "/scratch"} in container["env"]
    assert container["resources"]["requests"]["ephemeral-storage"] == "1Ti"


@pytest.mark.parametrize(
    ("network", "resource", "locks"),
    [
        ({"interface": "eth0"}, None, False),
        ({"fabric": "efa", "devices": 4}, ("vpc.amazonaws.com/efa", "4"), True),
        ({"fabric": "rdma", "device": "rdma/hca"}, ("rdma/hca", "1"), True),
    ],
)
def test_a_fabric_has_its_devices_and_may_pin_memory(
    network: dict[str, Any], resource: tuple[str, str] | None, locks: bool
) -> None:
    job = ray_job(cluster({"network": network}))
    (container,) = pod_of(groups_of(job)["gpu"])["containers"]
    limits = container["resources"]["limits"]
    assert set(limits) == {"memory", "nvidia.com/gpu"} | ({resource[0]} if resource else set())
    assert resource is None or limits[resource[0]] == resource[1]
    assert ("IPC_LOCK" in container["securityContext"]["capabilities"].get("add", [])) == locks
    (head,) = pod_of(job["spec"]["rayClusterSpec"]["headGroupSpec"])["containers"]
    assert "add" not in head["securityContext"]["capabilities"]


def test_no_pod_runs_as_root_or_may_become_it() -> None:
    job = ray_job_of(COMPARISON, cluster({"drivers": {}}))
    spec = job["spec"]["rayClusterSpec"]
    pods = [pod_of(spec["headGroupSpec"]), *(pod_of(group) for group in spec["workerGroupSpecs"])]
    pods.append(job["spec"]["submitterPodTemplate"]["spec"])
    assert len(pods) == 4
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_tunes_actors_of_trials_have_a_node_on_demand_beside_a_comparison_alone() -> None:
    place = cluster({"drivers": {"slots": 3}})
    group = groups_of(ray_job_of(COMPARISON, place))["drivers"]
    assert group["rayStartParams"]["resources"] == '"{\\"driver\\": 3}"'
    assert "drivers" not in groups_of(ray_job(place))


@pytest.mark.parametrize(
    ("workers", "launch", "nodes"),
    [
        (8, {}, 4),  # four runs at once, a node each
        (4, {}, 4),  # nodes stay whole: as many runs as nodes
        (12, {}, 4),  # two nodes each, two at once
        (16, {"drivers": {"slots": 1}}, 2),
    ],
)
def test_a_comparison_takes_whole_nodes_for_the_runs_that_go_on_side_by_side(
    workers: int, launch: dict[str, Any], nodes: int
) -> None:
    place = cluster(launch)
    run = {**COMPARISON["run"], "workers": workers, "batch": {"global_size": 96 * workers}}
    job = {**COMPARISON, "run": run, "replicates": 4}
    groups = groups_of(ray_job_of(job, place))
    assert groups["gpu"]["replicas"] == nodes
    alone = {**JOB, "workers": workers, "batch": run["batch"], "data": run["data"]}
    store = [
        int(found["gpu"]["rayStartParams"]["object-store-memory"])
        for found in (groups, groups_of(ray_job_of(alone, place)))
    ]
    assert store[0] == store[1], "a node holds the blocks of one run"


def test_a_job_that_judges_takes_nodes_for_its_workers_and_its_driver_nothing() -> None:
    job = {"kind": "evaluate", "name": "again", "run": "small", "evaluation": {"sets": ["scenes/val"]}}
    alone, all_workers = (ray_job_of({**job, **workers}, cluster()) for workers in ({"workers": 8}, {}))
    assert [groups_of(one)["gpu"]["replicas"] for one in (alone, all_workers)] == [1, 4]
    assert not [key for key in alone["spec"] if key.startswith("entrypointNum")]
    with pytest.raises(PlanError, match=r"workers is 33, but cluster .* offers 32: 1 are missing"):
        ray_job_of({**job, "workers": 33}, cluster())


def test_a_job_without_workers_takes_the_nodes_that_read_or_else_one() -> None:
    job = {"kind": "prepare", "name": "concepts", "data": JOB["data"], "concepts": {}}
    ingest = {"name": "ingest", "nodes": 2, "workers": 0, "cpus": 64, "memory": "128Gi", "labels": {"role": "ingest"}}
    apart = cluster({"groups": [GROUP, ingest]}, ray={"ingest_labels": {"role": "ingest"}})
    groups = groups_of(ray_job_of(job, apart))
    assert [(name, group["replicas"]) for name, group in groups.items()] == [("ingest", 2)]
    assert [(name, group["replicas"]) for name, group in groups_of(ray_job_of(job, cluster())).items()] == [("gpu", 1)]


def test_secrets_are_references_and_the_submitter_has_none() -> None:
    job = ray_job(cluster({"secrets": {"AWS_SECRET_ACCESS_KEY": "store/key"}}))
    (container,) = pod_of(groups_of(job)["gpu"])["containers"]
    reference = {"secretKeyRef": {"name": "store", "key": "key"}}
    assert {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": reference} in container["env"]
    assert {"name": SECRETS_ENV, "value": "AWS_SECRET_ACCESS_KEY"} in container["env"], "their values are masked there"
    (bare,) = pod_of(groups_of(ray_job(cluster()))["gpu"])["containers"]
    assert SECRETS_ENV not in {variable["name"] for variable in bare["env"]}
    assert "env" not in job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]


def test_only_its_own_pods_the_operator_and_prometheus_reach_a_job() -> None:
    place = cluster(tracking={"uri": "http://m", "metrics_address": "0.0.0.0:9464"})
    text = render_job(PretrainSpec.model_validate(JOB), place)
    (policy,) = [found["spec"] for found in yaml.safe_load_all(text) if found["kind"] == "NetworkPolicy"]
    own, operator, monitoring = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert [port["port"] for port in monitoring["ports"]] == [8080, 9464]


def test_what_the_driver_reads_there_is_the_job_with_its_overrides_and_joins_ray(tmp_path: Path) -> None:
    text = render_job(PretrainSpec.model_validate({**JOB, "workers": 16}), cluster())
    files = next(yaml.safe_load_all(text))["data"]
    assert PretrainSpec.model_validate(yaml.safe_load(files["job.yaml"])).workers == 16
    (tmp_path / "cluster.yaml").write_text(files["cluster.yaml"])
    there = load_cluster(str(tmp_path))
    assert there.ray.address == "auto"
    assert there.launch == cluster().launch


def test_names_that_kubernetes_does_not_take_stay_apart() -> None:
    assert kubernetes_name("clip-b16") == "clip-b16"
    odd = ["clip.b16", "clip_b16", "1-clip", "c" * 60, "c" * 61]
    names = [kubernetes_name(run) for run in odd]
    assert len(set(names)) == len(odd)
    assert all(len(name) <= MOST_NAME_CHARACTERS and name.replace("-", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({"secrets": {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG"}}, "secrets.AWS_SECRET_ACCESS_KEY"),
        ({"environment": {"HF_TOKEN": "hf_K7MDENG"}}, "HF_TOKEN looks like a secret"),
        ({"network": {"environment": {"HF_TOKEN": "hf_K7MDENG"}}}, "HF_TOKEN looks like a secret"),
        ({"environment": "HF_TOKEN=hf_K7MDENG"}, "launch.environment: Input should be keys and values"),
        ({"environment": {"HF": ["hf_K7MDENG"]}}, "launch.environment.HF: Input should be a valid string"),
        ({"environment": {"HF": "hf_K7MDENG"}, "groups": [GROUP, GROUP]}, "groups has gpu twice"),
        ({"groups": [{**GROUP, "market": "spot"}]}, "markets.spot does not say its nodes"),
        ({"groups": [GROUP, GROUP]}, "groups has gpu twice"),
        ({"groups": [{**GROUP, "name": "head"}]}, "groups has 'head', the name of the head's pod"),
        ({"groups": [{**GROUP, "name": "submitter"}]}, "groups has 'submitter', the name of the submitter's pod"),
        ({"groups": [{**GROUP, "name": "drivers"}]}, "groups has 'drivers', the name of the group that"),
        ({"groups": [{**GROUP, "min_nodes": 5}]}, "min_nodes is 5, above nodes"),
        ({"groups": [{**GROUP, "labels": {"ray.io/x": "y"}}]}, "Ray's own"),
        ({"network": {"fabric": "rdma"}}, "fabric rdma needs device"),
        ({"groups": [{**GROUP, "memory": "512 GB"}]}, "launch.groups[0].memory"),
        ({"kind": "kubray"}, "did you mean 'kuberay'?"),
        ({"groups": [{**GROUP, "memory": "512GB"}]}, "for example '512Gi'."),
        (
            {"environment": {"NCCL_IB_TIMEOUT": 22}},
            "launch.environment.NCCL_IB_TIMEOUT: Input should be a valid string",
        ),
        ({"environment": {"NCCL_IB_TIMEOUT": 22}}, "put it in quotes"),
        ({"environment": {"RAY_AUTH_MODE": "disabled"}}, "RAY_AUTH_MODE is set for every process"),
        ({"network": {"environment": {"TMPDIR": "/tmp"}}}, "local disk is 'scratch'"),
        ({"secrets": {"RAY_AUTH_TOKEN": "ray/token"}}, "RAY_AUTH_TOKEN is set for every process"),
        ({"secrets": {"ORCHESTRATOR_SECRETS": "a/b"}}, "ORCHESTRATOR_SECRETS is set for every process"),
        ({"environment": {"A": "x"}, "secrets": {"A": "a/b"}}, "A is under 'environment' and under 'secrets'"),
        ({"environment": {"PGPASSWORD": "K7MDENG"}}, "PGPASSWORD looks like a secret"),
        ({"image": "registry:5000/x"}, "with a tag or digest"),
        ({"image": "registry/x:1 "}, "launch.image"),
        ({"network": {"device": "rdma/hca"}}, "device is given, but fabric is tcp"),
        ({"network": {"devices": 8}}, "devices is given, but fabric is tcp"),
        ({"network": {"fabric": "rdma", "device": "two words"}}, "launch.network.device"),
        ({"groups": [{**GROUP, "accelerator": "NVIDIA H100"}]}, "launch.groups[0].accelerator"),
        ({"groups": [{**GROUP, "node_selector": {"My label": "x"}}]}, "launch.groups[0].node_selector.My label"),
        ({"groups": [{**GROUP, "node_selector": {"pool": "a b"}}]}, "launch.groups[0].node_selector.pool"),
        ({"groups": [{**GROUP, "labels": {"role": "d" * 64}}]}, "launch.groups[0].labels.role"),
        ({"groups": [{**GROUP, "tolerations": [{"key": ""}]}]}, "launch.groups[0].tolerations[0].key"),
    ],
)
def test_a_wrong_cluster_file_is_refused_with_its_key(tmp_path: Path, launch: dict[str, Any], said: str) -> None:
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**CLUSTER, "launch": {**LAUNCH, **launch}}))
    with pytest.raises(JobFileError) as caught:
        load_cluster(str(tmp_path))
    assert said in str(caught.value)
    assert "K7MDENG" not in str(caught.value)


def test_a_mistake_within_a_group_is_told_alone(tmp_path: Path) -> None:
    wrong = {**LAUNCH, "groups": [{**GROUP, "memory": "512GB"}]}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**CLUSTER, "launch": wrong}))
    with pytest.raises(JobFileError) as caught:
        load_cluster(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("image", ["registry:5000/x:V1", f"x@sha256:{'0' * 64}", f"r:5000/x:V1@sha256:{'a' * 64}"])
def test_an_image_has_a_tag_or_a_digest(image: str) -> None:
    (container,) = head_of(cluster({"image": image}))["containers"]
    assert container["image"] == image


def test_a_variable_that_only_sounds_like_a_secret_is_plain() -> None:
    (container,) = head_of(cluster({"environment": {"TOKENIZERS_PARALLELISM": "false"}}))["containers"]
    assert {"name": "TOKENIZERS_PARALLELISM", "value": "false"} in container["env"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"tracking": {"uri": "sqlite:////shared/mlflow.db"}}, "a file of the head's pod"),
        ({"tracking": {"uri": "http://m:5000", "metrics_address": "0.0.0.0:8080"}}, "port 8080 of the head is that of"),
        ({"cache": {"folder": "/cache", "max_bytes": 2**30}}, "wanted one below /scratch"),
        ({"cache": {"folder": "/scratch/../cache", "max_bytes": 2**30}}, "wanted one below /scratch"),
        ({"cache": {"folder": "/scratch/cache", "max_bytes": 2**40}}, "max_bytes is 1,024.0 GiB"),
    ],
)
def test_what_pods_cannot_keep_or_serve_is_refused(sections: dict[str, Any], said: str) -> None:
    if "cache" in sections:
        sections = {"storage": {**CLUSTER["storage"], **sections}}
    with pytest.raises(PlanError) as caught:
        ray_job(cluster(**sections))
    assert said in str(caught.value)


def test_what_nodes_say_is_not_said_twice(tmp_path: Path) -> None:
    twice = {**CLUSTER, "launch": LAUNCH, "ray": {"num_cpus": 8}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(twice))
    with pytest.raises(JobFileError, match=r"ray\.num_cpus is given beside launch"):
        load_cluster(str(tmp_path))


def test_a_cluster_that_is_made_for_a_job_is_not_run_on_and_another_is_not_rendered() -> None:
    job = PretrainSpec.model_validate(JOB)
    with pytest.raises(PlanError, match="orchestrator render"):
        run_pretrain(job, cluster())
    with pytest.raises(PlanError, match="no section 'launch'"):
        render_job(job, ClusterSpec.model_validate(CLUSTER))


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    place, job = tmp_path / "cluster.yaml", tmp_path / "job.yaml"
    place.write_text(yaml.safe_dump({**CLUSTER, "launch": LAUNCH}))
    job.write_text(yaml.safe_dump(JOB))
    target = tmp_path / "manifests.yaml"
    done = CliRunner().invoke(app, ["render", str(job), "--cluster", str(tmp_path), "-o", str(target)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["render", str(job), "--cluster", str(tmp_path)])
    assert shown.stdout == target.read_text()
