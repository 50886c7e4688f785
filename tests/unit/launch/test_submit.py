"""What ``submit`` and ``jobs`` decide before and beside Ray; with a real Ray: ``tests/ray/test_submit.py``."""

import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

from orchestrator.env import SUBMISSION_ENV
from orchestrator.errors import (
    ClusterAccessError,
    JobFileError,
    PlanError,
    RunConflictError,
    RunHeldError,
    RunNotFoundError,
)
from orchestrator.launch import doctor, look
from orchestrator.launch import submit as submitting
from orchestrator.launch.look import VERSIONS, compare_versions
from orchestrator.launch.ray_jobs import RayJobs, connect
from orchestrator.launch.ray_token import read_token
from orchestrator.launch.submission import Submission
from orchestrator.launch.submissions import describe_end, list_jobs, stop_run, stop_submission
from orchestrator.launch.submit import next_attempt, submit_section
from orchestrator.launch.versions import MARK, code_digest, own_versions
from orchestrator.runs.check import Finding
from orchestrator.runs.live import STOP_FILE, LivePost, LiveRecord, StopRequest, read_live_record, request_stop
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_submit import SubmitSpec
from orchestrator.spec.load import load_cluster, load_job
from orchestrator.storage.store import open_store
from orchestrator.tracking.tracker import RunStatus

ROOT = Path(__file__).parents[3]
ENDED = Submission("small-1", "small", "FAILED", "exit code 130", 130, 1000.0)
LIVE = Submission("small-2", "small", "RUNNING", "", None, 2000.0)
RECORD = LiveRecord("small", "small-2", RunStatus.RUNNING, 5, 10, 32, 64.0, "", "http://mlflow:5000/", "abc", 0.0)


class Listed(RayJobs):
    """A cluster that is asked for nothing but its list of submissions."""

    def __init__(self, *submissions: Submission) -> None:
        self._submissions = list(submissions)

    def list(self) -> list[Submission]:
        return self._submissions

    @property
    def address(self) -> str:
        return "http://ray"


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterSpec:
    return ClusterSpec.model_validate(
        {
            "name": "there",
            "workers": {"count": 2, "accelerator": "cpu"},
            "storage": {"data": tmp_path.as_uri(), "runs": (tmp_path / "runs").as_uri()},
        }
    )


def write_record(cluster: ClusterSpec, record: LiveRecord) -> None:
    with LivePost(open_store(f"{cluster.storage.runs}/{record.run}"), StopRequest(), lambda: record, {}, 1):
        pass


def test_an_attempt_is_one_more_than_the_last_of_this_run() -> None:
    assert next_attempt("small", []) == 1
    assert next_attempt("small", ["small-1", "small-2", "small-by-hand"]) == 3


def test_attempts_are_counted_on_where_ray_was_started_anew(cluster: ClusterSpec) -> None:
    """Else a request to stop that the old one's attempt has not heeded would stop the new one's."""
    job = load_job(str(ROOT / "jobs/smoke/synthetic.yaml"), ["name=small"])
    assert look.submissions_of(cluster, job) == []
    request_stop(open_store(f"{cluster.storage.runs}/small"), "small-3", "stop asked for by me")
    assert look.submissions_of(cluster, job) == ["small-3"]
    assert next_attempt("small", look.submissions_of(cluster, job)) == 4


def test_versions_are_told_by_a_program_that_needs_nothing_of_ours_and_compared() -> None:
    shown = subprocess.run([sys.executable, "-c", VERSIONS, "PATH", "NOT_SET_ANYWHERE"], capture_output=True, text=True)
    told = json.loads(shown.stdout.removeprefix(MARK))
    assert told.pop("missing") == ["NOT_SET_ANYWHERE"]
    assert told.pop("code") == code_digest()
    assert told == own_versions()
    assert compare_versions(told) == []
    [difference] = compare_versions({**told, "ray": "2.59.0"})
    assert "2.59.0 on the cluster" in difference
    assert str(told["ray"]) in difference
    assert compare_versions({**told, "vl-orchestrator": None})
    assert compare_versions({**told, "python": f"{sys.version_info[0]}.{sys.version_info[1]}.99"}) == []
    assert compare_versions({**told, "python": "3.9.1"})


@pytest.mark.parametrize(
    ("launch", "says"),
    [(None, "submit.dashboard"), ("kuberay", "orchestrator render"), ("slurm", "orchestrator render")],
)
def test_a_cluster_that_takes_no_jobs_is_refused_with_what_starts_them(launch: str | None, says: str) -> None:
    with pytest.raises(PlanError, match="takes no jobs from other machines") as refused:
        submit_section(load_cluster(str(ROOT / "cluster" / (launch or "laptop"))))
    assert says in str(refused.value)


def test_a_dashboard_with_a_user_in_it_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "cluster/laptop/cluster.yaml").read_text() + "submit: {dashboard: 'https://me:secret@ray:8265'}\n"
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(JobFileError, match=r"submit\.dashboard"):
        load_cluster(str(tmp_path))


def test_other_code_of_the_same_version_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a wheel has it that was built before the last change; it lies beside the job, where Python looks first."""
    (tmp_path / "orchestrator").mkdir()
    (tmp_path / "orchestrator" / "__init__.py").write_text("changed = True\n")
    shown = subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True, cwd=tmp_path)
    told = json.loads(shown.stdout.removeprefix(MARK))
    assert told["code"] != code_digest()
    caplog.set_level(logging.WARNING, "orchestrator")
    submitting._check_versions(told)
    assert "the cluster's code is not the one here" in caplog.text
    caplog.clear()
    submitting._check_versions({**told, "code": code_digest()})
    assert caplog.text == ""


def test_a_folder_of_the_machine_that_submits_is_none_of_the_cluster(tmp_path: Path) -> None:
    place = yaml.safe_load((ROOT / "cluster/gpu-cluster/cluster.yaml").read_text())
    for key, location in (("runs", "runs"), ("data", "~/data")):
        wrong = {**place, "storage": {**place["storage"], key: location}}
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(wrong))
        with pytest.raises(
            JobFileError, match=rf"storage\.{key}: '{location}' is a folder of the machine that submits"
        ):
            load_cluster(str(tmp_path))


@pytest.mark.parametrize(
    ("dashboard", "is_said"),
    [
        ("http://127.0.0.1", False),
        ("http://[::1]", False),
        ("http://LOCALHOST:8265/", False),
        ("https://ray:8265", False),
        ("http://ray:8265", True),
        ("http://10.0.0.1", True),
        ("http://localhost.example.org:8265", True),
    ],
)
def test_doctor_warns_of_a_token_that_others_can_read_on_its_way(
    cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch, dashboard: str, is_said: bool
) -> None:
    monkeypatch.setattr(doctor, "connect", lambda submit: Listed())
    place = cluster.model_copy(update={"submit": SubmitSpec(dashboard=dashboard)})
    jobs = next(finding for finding in doctor.examine(place) if finding.subject == "Ray Jobs")
    assert ("plain http" in jobs.detail) == is_said


def test_what_the_cluster_finds_wrong_is_refused_by_name() -> None:
    fine = Finding("data", True, "opens")
    submitting._refuse_wrong([fine])
    for detail, error in (
        ("run 'small' in s3://runs belongs to another plan; ...", RunConflictError),
        ("the run in s3://runs/small is held by host:1 for 9 s", RunHeldError),
        ("bucket missing", PlanError),
    ):
        with pytest.raises(error, match="the cluster finds wrong"):
            submitting._refuse_wrong([fine, Finding("run", False, detail)])
    submitting._check_not_live([ENDED])
    with pytest.raises(RunHeldError, match="live as submission small-2"):
        submitting._check_not_live([ENDED, LIVE])


def test_a_wheel_travels_unpacked_and_a_secret_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "vl.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("orchestrator/__init__.py", "")
    with submitting._job_folder({"job.yaml": "name: small"}, str(wheel)) as folder:
        assert (folder / "orchestrator" / "__init__.py").exists()
        assert (folder / "job.yaml").read_text() == "name: small"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other/__init__.py", "")
    for wrong in (wheel, tmp_path / "absent.whl"):
        with pytest.raises(PlanError, match=r"submit\.wheel"), submitting._job_folder({}, str(wrong)):
            pass
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse-battery")
    with (
        pytest.raises(PlanError, match="would carry a secret"),
        submitting._job_folder({"job.yaml": "name: correct-horse-battery"}, None),
    ):
        pass


def test_jobs_say_what_ray_and_the_runs_folder_know_together(cluster: ClusterSpec) -> None:
    write_record(cluster, replace(RECORD, written_at=time.time()))
    local = replace(RECORD, run="here", submission=None, status=RunStatus.FINISHED, tracking_uri="sqlite:///x")
    write_record(cluster, local)
    write_record(cluster, replace(RECORD, run="small-a-trial", written_at=time.time()))
    jobs = Listed(LIVE, ENDED)
    second, first, trial, here = list_jobs(cluster, jobs)
    assert (trial.id, trial.state) == ("small-a-trial", "RUNNING")
    assert (second.id, second.state, second.step, second.seconds_left) == ("small-2", "RUNNING", 5, 2.5)
    assert second.link == "http://mlflow:5000/#/runs/abc"
    assert (first.id, first.state, first.step) == ("small-1", "KILLED", None)
    assert (here.id, here.state, here.link) == ("here", "FINISHED", None)

    died, *_ = list_jobs(cluster, Listed(replace(LIVE, status="FAILED", message="node died")))
    assert (died.state, died.reason) == ("FAILED", "node died")
    write_record(cluster, RECORD)  # long ago
    assert {row.id: row.state for row in list_jobs(cluster, None)} == {
        "small-2": "SILENT",
        "small-a-trial": "RUNNING",
        "here": "FINISHED",
    }


def test_a_record_that_does_not_read_is_a_row_beside_the_others(cluster: ClusterSpec) -> None:
    write_record(cluster, replace(RECORD, written_at=time.time()))
    folder = Path(open_store(cluster.storage.runs).uri)
    content = json.loads((folder / "small" / "progress.json").read_bytes())
    older = {key: value for key, value in content.items() if key not in ("unit", "reason")}
    for name, text in (
        ("older", json.dumps({**older, "run": "older", "submission": None})),
        ("garbled", "{"),
        ("late", json.dumps({**content, "written_at": "yesterday"})),
    ):
        (folder / name).mkdir()
        (folder / name / "progress.json").write_text(text)
    rows = {row.id: row for row in list_jobs(cluster, None)}
    assert {row.run: row.state for row in rows.values()} == {
        "small": "RUNNING",
        "older": "RUNNING",
        "garbled": "UNREADABLE",
        "late": "UNREADABLE",
    }
    assert "progress.json is no JSON" in rows["garbled"].reason
    assert "written_at: Input should be a valid number" in rows["late"].reason


def test_no_checkpoint_is_listed_for_jobs(cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(cluster, RECORD)
    runs = open_store(cluster.storage.runs)
    for number in range(3):
        runs.write_bytes(f"small/checkpoints/{number}/model.safetensors", b"")
    runs.write_bytes("mlflow.db", b"")  # lies beside the runs of a laptop
    looked: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(str(path)) or scan(path))
    assert [row.id for row in list_jobs(cluster, None)] == ["small-2"]
    assert looked == [runs.uri]


def test_a_run_that_is_not_live_cannot_be_stopped(cluster: ClusterSpec) -> None:
    with pytest.raises(RunNotFoundError, match="no live run 'small'"):
        stop_run(cluster, "small", 0)
    write_record(cluster, RECORD)
    with pytest.raises(RunNotFoundError, match="no live run 'small'"):
        stop_run(cluster, "small", 0)


@pytest.mark.parametrize(("launch", "says"), [("kuberay", "RayJob ends as STOPPED"), ("slurm", "is not put back")])
def test_a_run_that_a_scheduler_started_is_stopped_through_storage(
    cluster: ClusterSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: str, says: str
) -> None:
    """Its driver knows the submission that KubeRay made; Slurm makes none."""
    made = load_cluster(str(ROOT / "cluster" / launch)).model_copy(update={"storage": cluster.storage})
    submission = "small-x7k2p" if launch == "kuberay" else None
    if submission is not None:
        monkeypatch.setenv(SUBMISSION_ENV, submission)
    stop = StopRequest()

    def look() -> LiveRecord:
        status = RunStatus.KILLED if stop.requested else RunStatus.RUNNING
        return replace(RECORD, submission=submission, status=status, written_at=time.time())

    store = open_store(f"{cluster.storage.runs}/small")
    with LivePost(store, stop, look, {}, 1, interval_s=0.02):
        while read_live_record(store) is None:
            time.sleep(0.02)
        assert stop_run(made, "small", 20)
    assert stop.reason.startswith("stop asked for by")
    assert says in describe_end(made)


def test_a_submission_is_found_by_its_id_or_as_the_last_of_its_run() -> None:
    named = replace(ENDED, id="small", run="other", started_at=500.0)
    jobs = Listed(LIVE, ENDED, named)
    assert jobs.find("small-1") == ENDED
    assert jobs.find("other") == named
    assert Listed(ENDED, named).find("small") == named, "an id comes before a run's name"
    assert Listed(LIVE, ENDED).find("small") == LIVE
    with pytest.raises(RunNotFoundError, match="http://ray knows no submission 'big'"):
        jobs.find("big")


def test_a_run_that_is_named_as_anothers_submission_is_not_taken_for_it() -> None:
    other = Submission("small-1-1", "small-1", "RUNNING", "", None, 3000.0)
    assert Listed(ENDED, other).find("small-1") == other, "the one that is live"
    assert Listed(ENDED, replace(other, status="STOPPED")).find("small-1") == ENDED
    first = replace(LIVE, id="small-1")
    with pytest.raises(RunNotFoundError, match="both are live; name 'small' or 'small-1-1'"):
        Listed(first, other).find("small-1")


def test_a_user_without_a_name_can_ask_for_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    program = "from orchestrator.launch.submissions import _asker; import os; os.setuid(54321); print(_asker())"
    if os.getuid() != 0:
        pytest.skip("only root can become a user without a name")
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("stop asked for by user 54321 on ")


def test_a_stop_that_ray_no_longer_tells_of_stands_all_the_same(cluster: ClusterSpec) -> None:
    class Refusing:
        def wait(self, *arguments: object) -> bool:
            raise ClusterAccessError("http://ray:8265 refuses this token, that of file /home/me/token")

    jobs: Any = Refusing()
    with pytest.raises(ClusterAccessError, match=r"small-2 is asked to stop.* that of file /home/me/token"):
        stop_submission(jobs, cluster, LIVE, 1)
    assert open_store(f"{cluster.storage.runs}/small").stat(STOP_FILE) is not None


def test_a_cluster_that_is_away_is_tried_and_then_named(
    cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    submit = {"dashboard": "http://127.0.0.1:9", "patience_s": 0.2}
    there = ClusterSpec.model_validate({**cluster.model_dump(), "submit": submit})
    monkeypatch.setattr("orchestrator.launch.ray_jobs._RETRY_S", 0.1)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "put back afterwards")
    caplog.set_level(logging.INFO, "orchestrator")
    with pytest.raises(ClusterAccessError, match=r"no Ray answers at http://127\.0\.0\.1:9"):
        connect(submit_section(there))
    assert "trying for" in caplog.text


def test_certificates_that_do_not_read_are_named_and_a_home_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "put back afterwards")
    submit = SubmitSpec(dashboard="https://127.0.0.1:9", ca_file="~/ca.pem", patience_s=0)
    with pytest.raises(ClusterAccessError, match=rf"submit\.ca_file: {tmp_path}/ca\.pem .*No such file"):
        connect(submit)
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ClusterAccessError, match=r"submit\.ca_file: \S+/ca\.pem does not read as certificates"):
        connect(submit)
    (tmp_path / "ca.pem").write_text(Path(certifi.where()).read_text())
    with pytest.raises(ClusterAccessError, match="no Ray answers"):
        connect(submit)


def test_a_token_comes_from_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert read_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    assert read_token() == "of the home"
    (tmp_path / "token").write_text("of a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert read_token() == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert read_token() == "of the environment"


def test_a_token_that_others_can_read_is_said_once_and_by_doctor(
    tmp_path: Path, cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "orchestrator")
    monkeypatch.setattr(logging.getLogger("orchestrator"), "propagate", True)
    monkeypatch.setattr(doctor, "connect", lambda submit: Listed())
    place = cluster.model_copy(update={"submit": SubmitSpec(dashboard="https://ray:8265")})
    file = tmp_path / "token"
    file.write_text("abc\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    for mode, is_said in ((0o600, False), (0o640, True), (0o604, True)):
        file.chmod(mode)
        assert [read_token(), read_token()] == ["abc", "abc"]
        jobs = next(finding for finding in doctor.examine(place) if finding.subject == "Ray Jobs")
        assert jobs.holds
        assert (f"others can read {file}; run: chmod 600 {file}" in jobs.detail) == is_said
    (record,) = {id(record): record for record in caplog.records}.values()  # one, however many handlers saw it
    assert f"chmod 600 {file}" in record.getMessage()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from the environment")
    assert "chmod" not in next(finding for finding in doctor.examine(place) if finding.subject == "Ray Jobs").detail
