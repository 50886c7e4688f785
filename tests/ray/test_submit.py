"""A job's life on a real Ray cluster with a token: handed over, seen from elsewhere, stopped, and gone on with.

The cluster is one of its own: ``ray start`` with dashboard and ``RAY_AUTH_MODE=token``, which no job here shares.
"""

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.data.scenes.write import write_scenes
from orchestrator.errors import ClusterAccessError, RunConflictError, RunHeldError, RunNotFoundError
from orchestrator.launch.kuberay import RUN_KEY
from orchestrator.launch.rank_logs import follow_rank
from orchestrator.launch.ray_jobs import RayJobs, connect
from orchestrator.launch.submit import submit_section
from orchestrator.runs.compare_folder import load_comparison
from orchestrator.runs.live import LiveRecord, read_live_record
from orchestrator.spec.cluster_submit import SubmitSpec
from orchestrator.spec.load import load_cluster
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.runs import list_runs
from ray_processes import ray_processes
from tls_proxy import tls_proxy
from token_gateway import token_gateway

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).parents[2]
JOB = str(ROOT / "jobs" / "smoke" / "synthetic.yaml")
RUN = "submitted"
STEPS = 180
LONG = ["--set", f"name={RUN}", "--set", f"budget.steps={STEPS}"]


@dataclass(frozen=True)
class RayHead:
    """A cluster of one node, with a secret in its environment that jobs may use and nobody may write down."""

    folder: Path
    dashboard: str
    token: str
    secret: str
    pid: int = 0

    @property
    def cluster(self) -> str:
        return str(self.folder / "cluster")

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def port(self) -> int:
        return int(self.dashboard.rpartition(":")[2])

    def live_record(self, run: str = RUN) -> LiveRecord | None:
        return read_live_record(open_store(str(self.runs / run)))

    def has_begun(self, run: str) -> bool:
        record = self.live_record(run)
        return record is not None and record.step > 0

    def ranks(self) -> list[psutil.Process]:
        """Training workers that live."""
        return ray_processes(self.pid, "RayTrainWorker")


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    pytest.importorskip("aiohttp_cors", reason="ray[default] brings the dashboard")
    folder = Path(tempfile.mkdtemp(prefix="submit-"))  # Ray's sockets have short names
    gcs, dashboard, agent, agent_rpc, environment_agent = free_ports(5)
    head = RayHead(folder, f"http://127.0.0.1:{dashboard}", secrets.token_hex(24), secrets.token_hex(24))
    write_cluster(head, "cluster")
    (folder / "home").mkdir()
    environment = {
        **os.environ,
        "HOME": str(folder / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": head.token,
        "MLFLOW_TRACKING_PASSWORD": head.secret,
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_rpc}"]
    command += [f"--runtime-env-agent-port={environment_agent}", f"--temp-dir={folder / 'ray'}"]
    command += ["--num-cpus=4", f"--object-store-memory={200 * 2**20}"]
    with (
        open(folder / "ray.log", "w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as ray,
    ):
        try:
            wait_until(lambda: answers(head) or ray.poll() is not None, 180)
            assert ray.poll() is None, (folder / "ray.log").read_text()
            yield replace(head, pid=ray.pid)
        finally:
            end_with_children(ray.pid)
    shutil.rmtree(folder)


def write_cluster(head: RayHead, name: str, **submit: object) -> str:
    document = {
        "name": name,
        "ray": {"address": "auto", "num_cpus": 4, "object_store_bytes": 150 * 2**20},
        "workers": {"count": 2, "accelerator": "cpu"},
        "storage": {"data": str(head.folder / "data"), "runs": str(head.runs)},
        "submit": {
            "dashboard": head.dashboard,
            "secrets": ["MLFLOW_TRACKING_PASSWORD"],
            "patience_s": 0,
            **submit,
        },
    }
    (head.folder / name).mkdir()
    (head.folder / "data").mkdir(exist_ok=True)
    (head.folder / name / "cluster.yaml").write_text(yaml.safe_dump(document))
    return str(head.folder / name)


def answers(head: RayHead) -> bool:
    try:
        answer = requests.get(
            f"{head.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}, timeout=5
        )
    except requests.RequestException:
        return False
    return answer.status_code == 200


def end_with_children(pid: int) -> None:
    processes = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                end(process)
        _, processes = psutil.wait_procs(processes, timeout=5)


def wait_until(holds: Callable[[], bool], timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come about in time"
        time.sleep(0.5)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submitter's machine: a home of its own, without a token and with an address that is not meant."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "127.0.0.1:9")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)


def orchestrator(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def done(shown: Result) -> str:
    assert shown.exit_code == 0, f"{shown.output}\n{shown.exception!r}"
    return shown.stdout


def job_there(head: RayHead, submission: str) -> dict[str, Any]:
    """The one row of a submission."""
    rows = json.loads(done(orchestrator("jobs", "--cluster", head.cluster, "--json")))
    [row] = [row for row in rows if row["id"] == submission]
    assert isinstance(row, dict)
    return row


def build_wheel(folder: Path) -> Path:
    """Of this package as it lies here, built apart from it."""
    copy = folder / "package"
    shutil.copytree(ROOT / "orchestrator", copy / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def altered(wheel: Path, target: Path, file: str, change: Callable[[str], str]) -> str:
    """The same wheel with another text in the file whose path ends so."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content.decode()) if name.endswith(file) else content)
    return str(target)


def test_a_missing_and_a_wrong_token_are_refused_and_a_cluster_that_is_away_is_named(
    head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = orchestrator("submit", JOB, "--cluster", head.cluster).exception
    assert isinstance(refused, ClusterAccessError)
    assert "there is none here" in str(refused)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-" + head.token)
    refused = orchestrator("jobs", "--cluster", head.cluster).exception
    assert isinstance(refused, ClusterAccessError)
    assert "refuses this token" in str(refused)
    assert head.token not in str(refused)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "MDEyMzQ1Njc4OWFiY2RlZg=="  # any 16 bytes
    for token in ({}, {"Authorization": f"Bearer not-{head.token}"}):
        answer = requests.get(f"{head.dashboard}/api/jobs/any/logs/tail", headers=upgrade | token, timeout=10)
        assert answer.status_code in (401, 403), "the way by which logs are followed"
    away = write_cluster(head, "away", dashboard="http://127.0.0.1:9")
    refused = orchestrator("submit", JOB, "--cluster", away).exception
    assert isinstance(refused, ClusterAccessError)
    assert "no Ray answers at http://127.0.0.1:9" in str(refused)


def test_doctor_finds_a_cluster_healthy_and_names_what_is_missing(
    head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    shown = orchestrator("doctor", "--cluster", head.cluster, "--json")
    found = {finding["subject"]: finding["holds"] for finding in json.loads(shown.stdout)}
    wanted = ["runs, from here", "Ray Jobs", "clock", "versions and secrets"]
    wanted += [f"{subject}, on the cluster" for subject in ("data", "runs", "MLflow", "noun table", "room")]
    assert [found.get(subject) for subject in wanted] == [True] * len(wanted), shown.output
    assert "disk of temporary files, on the cluster" in found

    large = Path(write_cluster(head, "large")) / "cluster.yaml"
    large.write_text(large.read_text().replace("num_cpus: 4", "num_cpus: 96").replace("count: 2", "count: 8"))
    shown = orchestrator("doctor", "--cluster", str(large.parent))
    assert "1 nodes with 4 CPUs have room for 4: 4 are missing" in shown.output
    assert "ray.num_cpus is 96, and nodes have 4: 92 are missing" in shown.output

    lacking = write_cluster(head, "lacking", secrets=["NOT_SET_THERE"])
    shown = orchestrator("doctor", "--cluster", lacking)
    assert shown.exit_code == 1
    assert "NOT_SET_THERE not set" in shown.output


def test_a_job_is_seen_from_elsewhere_stopped_and_gone_on_with_and_no_secret_is_written(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    submitted = done(orchestrator("submit", JOB, "--cluster", head.cluster, *LONG)).split()
    assert submitted == [f"{RUN}-1"]

    monkeypatch.setenv("HOME", str(tmp_path / "another machine"))
    wait_until(lambda: head.has_begun(RUN), 400)
    row = job_there(head, f"{RUN}-1")
    assert (row["id"], row["run"], row["state"], row["steps"]) == (f"{RUN}-1", RUN, "RUNNING", STEPS)
    assert row["step"] > 0
    assert row["seconds_left"] > 0
    refused = orchestrator("submit", JOB, "--cluster", head.cluster, *LONG).exception
    assert isinstance(refused, RunHeldError)
    assert f"submission {RUN}-1" in str(refused)
    log = done(orchestrator("logs", f"{RUN}-1", "--cluster", head.cluster, "--rank", "1"))
    assert "RayTrainWorker" in log
    assert isinstance(
        orchestrator("logs", f"{RUN}-1", "--cluster", head.cluster, "--rank", "2").exception, RunNotFoundError
    )

    check_replaced_token(head, f"{RUN}-1", tmp_path / "token", monkeypatch)

    with ThreadPoolExecutor() as pool:
        followed_rank = pool.submit(follow_rank_1, head, f"{RUN}-1")
        stopped = orchestrator("stop", f"{RUN}-1", "--cluster", head.cluster, "--deadline", "300")
        assert done(stopped).strip() == f"{RUN}-1 has ended"
        log = done(orchestrator("logs", f"{RUN}-1", "--cluster", head.cluster, "--rank", "1"))
        assert followed_rank.result() == log
    row = job_there(head, f"{RUN}-1")
    assert row["state"] == "KILLED"
    assert 0 < row["step"] < STEPS
    assert "stop asked for by" in row["reason"]
    [recorded] = list_runs(f"sqlite:///{head.runs}/mlflow.db", "vl-orchestrator")
    assert recorded.status == "KILLED"

    refused = orchestrator("submit", JOB, "--cluster", head.cluster, *LONG, "--set", "seed.data=7").exception
    assert isinstance(refused, RunConflictError)
    assert "belongs to another plan" in str(refused)

    followed = submit_while_the_token_is_renewed(head, tmp_path / "token", monkeypatch)
    assert followed.splitlines()[0] == f"{RUN}-2"
    for its_last in (f"{RUN}-2", RUN):
        assert followed == f"{RUN}-2\n" + done(orchestrator("logs", its_last, "--cluster", head.cluster))
    assert done(orchestrator("logs", RUN, "--cluster", head.cluster, "--follow")) in followed
    assert f"goes on from its checkpoint at step {row['step']:,}" in followed
    first, second = (job_there(head, f"{RUN}-{number}") for number in (1, 2))
    assert (second["state"], second["step"]) == ("FINISHED", STEPS)
    assert (first["state"], first["step"]) == ("KILLED", None)

    everything = requests.get(
        f"{head.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}, timeout=30
    ).text
    for secret in (head.secret, head.token):
        assert secret not in everything
        assert secret not in followed
        folders = (head.folder, tmp_path)
        written = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        assert len(written) > 50
        assert [file for file in written if secret.encode() in file.read_bytes()] == []


def follow_rank_1(head: RayHead, submission: str) -> str:
    """All that a follower sees; beside other commands, whose output would be mixed with that of the command itself."""
    place = load_cluster(head.cluster)
    jobs = connect(submit_section(place))
    return b"".join(follow_rank(jobs, open_store(str(head.runs / RUN)), submission, 1)).decode()


def check_replaced_token(head: RayHead, submission: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway's token is replaced while a log is followed: every command says so, and the job goes on."""
    with token_gateway(head.port, head.token) as (gateway, url), monkeypatch.context() as there:
        there.delenv("RAY_AUTH_TOKEN")
        there.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        file.write_text(gateway.token)
        gated = write_cluster(head, "gated", dashboard=url)
        renewed = secrets.token_hex(24)

        def replace_token() -> None:
            wait_until(lambda: gateway.is_followed, 120)
            gateway.replace_token(renewed)

        with ThreadPoolExecutor() as pool:
            replaced = pool.submit(replace_token)
            shown = orchestrator("logs", submission, "--cluster", gated, "--follow")
            replaced.result()
        assert f"{submission} goes on; see it with: orchestrator logs {submission} --cluster {gated}" in shown.output
        later = [orchestrator(*command, "--cluster", gated) for command in (["jobs"], ["stop", submission])]
        for result in (shown, *later):
            assert isinstance(result.exception, ClusterAccessError)
            assert f"refuses this token, that of file {file}" in str(result.exception)
        file.write_text(renewed)
        [row] = [
            row
            for row in json.loads(done(orchestrator("jobs", "--cluster", gated, "--json")))
            if row["id"] == submission
        ]
        assert row["state"] == "RUNNING"


def submit_while_the_token_is_renewed(head: RayHead, file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """All that a submission through a gateway shows, whose token is replaced here and there once steps are made."""
    with token_gateway(head.port, head.token) as (gateway, url), monkeypatch.context() as there:
        there.delenv("RAY_AUTH_TOKEN")
        there.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        file.write_text(gateway.token)
        gated = write_cluster(head, "renewed", dashboard=url)

        def has_begun_again() -> bool:
            record = head.live_record()
            return record is not None and record.submission == f"{RUN}-2" and gateway.is_followed

        def renew_token() -> None:
            wait_until(has_begun_again, 400)
            renewed = secrets.token_hex(24)
            file.write_text(renewed)
            gateway.replace_token(renewed)

        with ThreadPoolExecutor() as pool:
            replaced = pool.submit(renew_token)
            shown = orchestrator("submit", JOB, "--cluster", gated, *LONG, "--follow")
            replaced.result()
        return done(shown)


def hand_over(head: RayHead, submission: str, *arguments: str) -> RayJobs:
    """As KubeRay's submitter does: the entry point of a RayJob, under an id that KubeRay made."""
    jobs = connect(SubmitSpec(dashboard=head.dashboard, patience_s=0))
    command = shlex.join(["python", "-m", "orchestrator.launch.entrypoint", *arguments])
    jobs.start(submission, command, str(head.folder / "data"), {RUN_KEY: "of-kuberay"}, {})
    return jobs


def test_only_a_failure_ends_as_one_where_kuberay_would_try_again(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    jobs = hand_over(head, "wrong-input-x7k2p", "plan", "absent.yaml")
    place = (
        f"name: away\nworkers: {{count: 1, accelerator: cpu}}\nstorage: {{data: {tmp_path}/absent, runs: {tmp_path}}}"
    )
    (tmp_path / "cluster.yaml").write_text(place)
    hand_over(head, "failed-x7k2p", "doctor", "--cluster", str(tmp_path))
    assert jobs.wait("wrong-input-x7k2p", 120)
    assert jobs.find("wrong-input-x7k2p").status == "STOPPED"
    assert "absent.yaml" in jobs.driver_log("wrong-input-x7k2p")
    assert jobs.wait("failed-x7k2p", 120)
    failed = jobs.find("failed-x7k2p")
    assert (failed.status, failed.exit_code) == ("FAILED", 1)


@pytest.mark.full
def test_a_run_that_kuberay_started_is_stopped_by_its_name_and_not_tried_again(
    head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    settings = ["--set", "name=of-kuberay", "--set", "budget.steps=2000"]
    jobs = hand_over(head, "of-kuberay-x7k2p", "run", JOB, "--cluster", head.cluster, *settings)
    wait_until(lambda: head.has_begun("of-kuberay"), 400)
    stopped = orchestrator("stop", "of-kuberay", "--cluster", head.cluster, "--deadline", "300")
    assert done(stopped).strip() == "of-kuberay has ended"
    assert jobs.find("of-kuberay").status == "STOPPED"
    row = job_there(head, "of-kuberay-x7k2p")
    assert row["state"] == "KILLED"
    assert "stop asked for by" in row["reason"]


@pytest.mark.full
def test_a_wheel_is_what_runs_and_travels_over_verified_tls(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    wheel = build_wheel(tmp_path)
    older = altered(
        wheel, tmp_path / "older.whl", "METADATA", lambda text: re.sub("\nVersion: .*", "\nVersion: 0.0.1", text)
    )
    refused = orchestrator("submit", JOB, "--cluster", write_cluster(head, "older", wheel=older)).exception
    assert isinstance(refused, ClusterAccessError)
    assert "vl-orchestrator is 0.0.1 on the cluster" in str(refused)

    says = "\nimport sys\nprint('this came in a wheel', file=sys.stderr)\n"
    marked = altered(wheel, tmp_path / "marked.whl", "training/entry.py", lambda text: text + says)
    with tls_proxy(tmp_path, head.port) as dashboard:
        stranger = write_cluster(head, "stranger", dashboard=dashboard)
        refused = orchestrator("submit", JOB, "--cluster", stranger).exception
        assert isinstance(refused, ClusterAccessError)
        assert "is not trusted" in str(refused)
        assert "submit.ca_file" in str(refused)
        trusted = write_cluster(head, "trusted", dashboard=dashboard, ca_file=str(tmp_path / "ca.pem"), wheel=marked)
        settings = ["--set", "name=shipped", "--set", "budget.steps=2"]
        followed = done(orchestrator("submit", JOB, "--cluster", trusted, *settings, "--follow"))
        assert "checkpoint at step 2" in followed
        log = done(orchestrator("logs", "shipped-1", "--cluster", trusted, "--rank", "1"))
    assert "this came in a wheel" in log
    assert job_there(head, "shipped-1")["state"] == "FINISHED"


@pytest.mark.full
def test_ranks_that_do_not_stop_are_ended_by_ray_past_the_deadline(
    head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    done(orchestrator("submit", JOB, "--cluster", head.cluster, "--set", "name=stuck", "--set", "budget.steps=2000"))
    wait_until(lambda: head.has_begun("stuck"), 400)
    ranks = head.ranks()
    assert len(ranks) == 2
    for rank in ranks:
        rank.suspend()
    stopped = orchestrator("stop", "stuck-1", "--cluster", head.cluster, "--deadline", "1")
    assert stopped.exit_code == 1
    assert "ended by Ray, past its deadline" in stopped.output
    row = job_there(head, "stuck-1")
    assert row["state"] == "KILLED"
    assert row["step"] < 2000
    _, left = psutil.wait_procs(ranks, timeout=60)
    assert left == []


@pytest.mark.full
def test_a_comparison_is_handed_over_and_counts_its_trials(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    write_scenes(str(head.folder / "data" / "scenes"), num_train=320, num_eval=160, seed=0, samples_per_shard=80)
    pair = "[{label: clip, objective: {name: clip}}, {label: siglip, objective: {name: siglip, towers: clip}}]"
    settings = ["--set", "name=compared", "--set", "budget.steps=4", "--set", f"objectives={pair}"]
    job = str(ROOT / "jobs" / "smoke" / "compare-scenes.yaml")
    assert done(orchestrator("submit", job, "--cluster", head.cluster, *settings, "--follow")).startswith("compared-1")
    row = job_there(head, "compared-1")
    assert (row["state"], row["step"], row["steps"], row["unit"]) == ("FINISHED", 2, 2, "trials")
    result = load_comparison(open_store(str(head.runs / "compared")))
    assert result is not None
    assert [(trial.run, trial.status) for trial in result.trials] == [
        ("compared--clip-r0", "finished"),
        ("compared--siglip-r0", "finished"),
    ]
