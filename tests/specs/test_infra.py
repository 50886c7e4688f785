"""What runs beside Ray: files parse and are valid, queries name metrics that exist, images hold what they say."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from manifests import check_manifest, load_manifests
from metric_queries import alerts, dashboard, metrics_in, queries
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import KubeRaySpec
from orchestrator.spec.load import load_cluster
from orchestrator.tracking.metrics import METRICS
from orchestrator.tracking.prometheus import prometheus_name

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
IMAGES = sorted((INFRA / "images").glob("*.Dockerfile"))
KUBERNETES = [
    file
    for file in sorted((INFRA / "kubernetes").rglob("*.yaml"))
    if file.name != "kustomization.yaml" and not file.name.endswith("-values.yaml")
]


def rays_own_metrics() -> str:
    """The dashboards that Ray ships: every name in them is one that its agents export."""
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    return "\n".join(file.read_text() for file in folder.glob("*_panels.py"))


def test_every_query_names_metrics_that_somebody_exports() -> None:
    ours = {prometheus_name(row) for row in METRICS}
    theirs = metrics_in(rays_own_metrics())
    assert theirs, "Ray's dashboards have moved"
    named = metrics_in(" ".join(queries()))
    assert named - ours - theirs == set()
    assert named & ours, "which of them a run shows: tests/ray/test_scraping.py"


def test_no_alert_fires_at_the_first_sample_of_a_run() -> None:
    """Over a range, one sample is enough for Prometheus: it changes 0 times. So a rule lasts for a while, compares with
    what was before, or asks for an increase, which takes two."""
    for rule in alerts():
        assert "for" in rule or " offset " in rule["expr"] or "increase(" in rule["expr"], rule["alert"]


def test_prometheus_reads_ray_at_the_port_that_the_documentation_starts_it_with() -> None:
    configuration = yaml.safe_load((INFRA / "compose" / "prometheus" / "prometheus.yml").read_text())
    [[target]] = [
        place["targets"]
        for job in configuration["scrape_configs"]
        for place in job["static_configs"]
        if job["job_name"] == "ray"
    ]
    for page in ("docs/clusters.md", "infra/compose/README.md"):
        ports = re.findall(r"ray start .*--metrics-export-port=(\d+)", (ROOT / page).read_text())
        assert ports, page
        assert set(ports) == {target.rpartition(":")[2]}


@pytest.mark.parametrize("query", queries())
def test_a_query_closes_what_it_opens(query: str) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing)
    assert query.count('"') % 2 == 0


def test_the_dashboard_shows_what_a_run_is_judged_by() -> None:
    panels = dashboard()["panels"]
    titles = {panel["title"] for panel in panels}
    wanted = {"Throughput", "Data wait", "Checkpoint wait", "GPU use", "Restarts", "Quarantine share"}
    assert wanted <= titles
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: str(file.relative_to(INFRA)))
def test_manifests_are_what_the_api_server_takes_and_run_as_nobody(file: Path) -> None:
    for manifest in load_manifests(file.read_text()):
        pod = manifest.get("spec", {}).get("template", {}).get("spec")
        if pod is not None:
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
                assert {"requests", "limits"} <= set(container["resources"])
        check_manifest(manifest)


@pytest.mark.parametrize("namespace", ["tracking", "monitoring"])
def test_every_pod_has_a_policy_of_who_may_speak_to_it(namespace: str) -> None:
    manifests = [
        manifest
        for file in (INFRA / "kubernetes" / namespace).glob("*.yaml")
        if file.name != "kustomization.yaml"
        for manifest in load_manifests(file.read_text())
    ]
    pods = [
        found["spec"]["template"]["metadata"]["labels"] for found in manifests if "template" in found.get("spec", {})
    ]
    guarded = [
        found["spec"]["podSelector"]["matchLabels"]
        for found in manifests
        if found["kind"] == "NetworkPolicy" and found["spec"]["policyTypes"] == ["Ingress"]
    ]
    assert len(pods) == 2
    assert all(any(policy.items() <= labels.items() for policy in guarded) for labels in pods)


def test_a_kustomization_names_files_that_are_there() -> None:
    files = [*INFRA.rglob("kustomization.yaml")]
    assert len(files) == 4
    for file in files:
        document = yaml.safe_load(file.read_text())
        named = document.get("resources", []) + [
            name for maker in document.get("configMapGenerator", []) for name in maker["files"]
        ]
        assert named
        assert all((file.parent / name).exists() for name in named), file


def test_services_of_compose_listen_here_only_and_hold_no_secret() -> None:
    text = (INFRA / "compose" / "compose.yaml").read_text()
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    assert {"mlflow", "postgres", "objects", "prometheus", "grafana"} == set(services)
    example = dict(
        line.split("=", 1)
        for line in (INFRA / "compose" / "env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]
        assert service["cap_drop"] == ["ALL"]
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY", key):
                assert str(value).startswith("${"), f"{name}.{key} stands in the file"
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required == set(example)
    assert not any(example.values())


def test_the_tracking_server_answers_to_its_own_names_alone() -> None:
    """That the real server with users refuses others: ``tests/ray/test_tracking_mlflow.py``."""
    assert '--allowed-hosts "$MLFLOW_ALLOWED_HOSTS"' in (INFRA / "images" / "serve-mlflow.sh").read_text()
    (server,) = [
        manifest["spec"]["template"]["spec"]["containers"][0]
        for manifest in load_manifests((INFRA / "kubernetes" / "tracking" / "mlflow.yaml").read_text())
        if manifest["kind"] == "Deployment"
    ]
    (hosts,) = [variable["value"] for variable in server["env"] if variable["name"] == "MLFLOW_ALLOWED_HOSTS"]
    tracking = load_cluster(str(ROOT / "cluster" / "kuberay")).tracking.uri
    (probe,) = server["readinessProbe"]["httpGet"]["httpHeaders"]
    assert tracking is not None
    assert {tracking.removeprefix("http://"), probe["value"]} <= set(hosts.split(","))
    assert "*" not in hosts
    compose = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"]["mlflow"]
    default = compose["environment"]["MLFLOW_ALLOWED_HOSTS"].removeprefix("${MLFLOW_ALLOWED_HOSTS:-").removesuffix("}")
    assert {"localhost:5000", "mlflow:5000"} <= set(default.split(","))
    assert "*" not in default


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.stem)
def test_an_image_is_made_in_stages_from_the_pins_and_runs_as_nobody(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    steps = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert sum(step.startswith("FROM ") for step in steps) == 2
    last = steps[max(index for index, step in enumerate(steps) if step.startswith("FROM ")) :]
    assert any(step.startswith("USER 1000") for step in last)
    assert any(step.startswith("HEALTHCHECK") for step in last)
    installs = [step for step in steps if "pip install" in step]
    assert installs
    assert all(
        "--constraint" in command for step in installs for command in step.split("&&") if "pip install" in command
    )
    assert not any("pip install" in step for step in last), "what installs is not what runs"
    copied = [step.split()[1] for step in steps if step.startswith("COPY ") and "--from" not in step]
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def test_scripts_of_images_are_bash() -> None:
    scripts = sorted((INFRA / "images").glob("*.sh"))
    assert scripts
    for file in scripts:
        found = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr


def test_the_queue_of_kuberay_holds_the_job_that_fills_its_cluster() -> None:
    cluster = load_cluster(str(ROOT / "cluster" / "kuberay"))
    assert isinstance(cluster, ClusterSpec)
    assert isinstance(cluster.launch, KubeRaySpec)
    documents = load_manifests((ROOT / "cluster" / "kuberay" / "queue.yaml").read_text())
    (local,) = [found for found in documents if found["kind"] == "LocalQueue"]
    assert local["metadata"] == {"name": cluster.launch.queue, "namespace": cluster.launch.namespace}
    (queue,) = [found for found in documents if found["kind"] == "ClusterQueue"]
    (resources,) = queue["spec"]["resourceGroups"]
    flavors = {
        flavor["name"]: {r["name"]: r["nominalQuota"] for r in flavor["resources"]} for flavor in resources["flavors"]
    }
    (group,) = cluster.launch.groups
    assert flavors["h100-spot"]["cpu"] == group.nodes * group.cpus
    assert flavors["h100-spot"]["nvidia.com/gpu"] == cluster.workers.count
    assert flavors["on-demand"]["cpu"] >= cluster.launch.head.cpus
    assert all(set(quota) == set(resources["coveredResources"]) for quota in flavors.values())
