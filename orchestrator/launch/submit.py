"""``orchestrator submit``: a job is handed to a Ray that runs already, and outlives the machine that handed it over.

What travels is data: job and cluster file in a folder of their own, with the package where the cluster file names a
wheel. Before that the cluster looks at the job itself (``look.py``): its versions, its credentials, its storage.
"""

import contextlib
import json
import logging
import shlex
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.env import SUBMISSION_ENV
from orchestrator.errors import ClusterAccessError, PlanError, RunConflictError, RunHeldError
from orchestrator.launch.kuberay import RUN_KEY
from orchestrator.launch.look import VERSIONS, compare_versions
from orchestrator.launch.ray_jobs import RayJobs
from orchestrator.launch.render import job_files
from orchestrator.launch.submission import Submission
from orchestrator.launch.versions import MARK, code_digest
from orchestrator.redaction import SECRETS_ENV, redact
from orchestrator.runs.check import Finding
from orchestrator.runs.room import ROOM
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_submit import SubmitSpec
from orchestrator.spec.kinds import Job

logger = logging.getLogger(__name__)

_LOOK_TIMEOUT_S = 300.0
_ORCHESTRATOR = "python -m orchestrator.cli.main"


def submit_section(cluster: ClusterSpec) -> SubmitSpec:
    """Raises PlanError where the cluster file does not say how to reach its Ray; says what starts a job there."""
    if cluster.submit is not None:
        return cluster.submit
    if cluster.launch is None:
        how = "start it there with 'orchestrator run', or name Ray's dashboard with submit.dashboard"
    else:
        how = (
            f"print what makes its Ray ({cluster.launch.kind}) with 'orchestrator render'; once that runs, "
            f"submit.dashboard may name its dashboard"
        )
    raise PlanError(f"cluster '{cluster.name}' takes no jobs from other machines: it has no section 'submit'; {how}")


def submit_job(jobs: RayJobs, job: Job, cluster: ClusterSpec) -> str:
    """Hand the job over once the cluster finds nothing wrong with it; returns the submission's id.

    Raises:
        ClusterAccessError: versions differ, or a secret's variable is not set there.
        RunHeldError: the run is live.
        RunConflictError: the run's name belongs to another plan.
        PlanError: what else the cluster finds wrong; a secret in the files.
    """
    submit = submit_section(cluster)
    of_run = [submission for submission in jobs.list() if submission.run == job.name]
    _check_not_live(of_run)
    with _job_folder(job_files(job, cluster), submit.wheel) as folder:
        findings, known = look_there(jobs, folder, submit.secrets)
        _refuse_wrong(findings)
        submission_id = f"{job.name}-{next_attempt(job.name, [*known, *(found.id for found in of_run)])}"
        environment = {SUBMISSION_ENV: submission_id, SECRETS_ENV: ",".join(submit.secrets)}
        entrypoint = f"{_ORCHESTRATOR} run job.yaml --cluster cluster.yaml"
        jobs.start(submission_id, entrypoint, str(folder), {RUN_KEY: job.name}, environment)
    return submission_id


def next_attempt(run: str, submissions: Sequence[str]) -> int:
    """One more than the last: Ray refuses an id that was used, and a request to stop it may still lie by the run."""
    numbers = [submission.removeprefix(f"{run}-") for submission in submissions]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def look_at_place(jobs: RayJobs, cluster: ClusterSpec) -> list[Finding]:
    """What any job needs, as the cluster itself finds it."""
    submit = submit_section(cluster)
    files = {"cluster.yaml": files_of_place(cluster)}
    with _job_folder(files, submit.wheel) as folder:
        findings, _ = look_there(jobs, folder, submit.secrets)
        return findings


def files_of_place(cluster: ClusterSpec) -> str:
    """The cluster file alone, as the cluster reads it."""
    return json.dumps(cluster.model_dump(mode="json", exclude_unset=True))  # JSON is YAML


def look_there(jobs: RayJobs, folder: Path, secrets: Sequence[str]) -> tuple[list[Finding], list[str]]:
    """Have the cluster compare versions and look at what lies in ``folder``.

    Returns: what it finds, and the submissions that the run's folder names, also those of a Ray that is gone.

    Raises:
        ClusterAccessError: versions differ, a secret's variable is not set, or the look itself failed.
    """
    look_id = f"look-{uuid.uuid4().hex[:12]}"
    versions = shlex.join(["python", "-c", VERSIONS, *secrets])
    jobs.start(look_id, f"{versions} && python -m orchestrator.launch.look", str(folder), {}, {})
    if not jobs.wait(look_id, _LOOK_TIMEOUT_S):
        jobs.stop(look_id)
        raise ClusterAccessError(
            f"the cluster did not get to look at the job within {_LOOK_TIMEOUT_S:.0f} s; see its dashboard"
        )
    log = jobs.driver_log(look_id)
    jobs.forget(look_id)
    told = [json.loads(line.removeprefix(MARK)) for line in log.splitlines() if line.startswith(MARK)]
    if told:
        _check_versions(told[0])
    if len(told) < 2:
        raise ClusterAccessError(f"the cluster could not look at the job; it said:\n{redact(log)[-2000:]}")
    return [Finding(**finding) for finding in told[1]["findings"]], told[1]["submissions"]


def _check_versions(told: dict[str, Any]) -> None:
    differences = compare_versions(told)
    if differences:
        raise ClusterAccessError(
            "versions differ: "
            + "; ".join(differences)
            + "; install the cluster's here, rebuild its image, or ship this package with submit.wheel"
        )
    if told["code"] != code_digest():
        logger.warning(
            "the cluster's code is not the one here, though the version is the same; rebuild its image or submit.wheel "
            "if it should be"
        )
    if told["missing"]:
        raise ClusterAccessError(
            f"submit.secrets: {', '.join(told['missing'])} not set in the environment of the cluster's Ray; set it "
            f"where Ray is started (its value never travels with a job)"
        )


def _check_not_live(submissions: Sequence[Submission]) -> None:
    for submission in submissions:
        if not submission.has_ended:
            minutes = (time.time() - submission.started_at) / 60
            raise RunHeldError(
                f"run '{submission.run}' is live as submission {submission.id} ({submission.status}, for "
                f"{minutes:.0f} minutes); stop it first, on the same --cluster: orchestrator stop {submission.id}"
            )


def _refuse_wrong(findings: Sequence[Finding]) -> None:
    wrong = [finding for finding in findings if not finding.holds and finding.subject != ROOM]
    for finding in findings:
        if finding.subject == ROOM and not finding.holds:  # an autoscaler may bring what is missing
            logger.warning("the cluster is too small now: %s", finding.detail)
    if not wrong:
        return
    text = "the cluster finds wrong:\n  " + "\n  ".join(f"{finding.subject}: {finding.detail}" for finding in wrong)
    for finding in wrong:
        if "belongs to another plan" in finding.detail:
            raise RunConflictError(text)
        if "is held by" in finding.detail:
            raise RunHeldError(text)
    raise PlanError(text)


@contextlib.contextmanager
def _job_folder(files: dict[str, str], wheel: str | None) -> Iterator[Path]:
    """A folder with what travels. A wheel is unpacked: Ray would install it with all that it depends on."""
    with tempfile.TemporaryDirectory(prefix="vl-orchestrator-") as name:
        folder = Path(name)
        if wheel is not None:
            _unpack_wheel(Path(wheel).expanduser(), folder)
        for file, text in files.items():
            if redact(text) != text:
                raise PlanError(
                    f"{file} would carry a secret: a value of this shell's secret variables, or a user in a URI; take "
                    f"it out, and name its variable under submit.secrets"
                )
            (folder / file).write_text(text, encoding="utf-8")
        yield folder


def _unpack_wheel(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise PlanError(
            f"submit.wheel: {wheel} does not open ({error}); make it with: python -m build --wheel"
        ) from error
    if not (folder / "orchestrator").is_dir():
        raise PlanError(f"submit.wheel: {wheel} is no wheel of this package; it holds no folder orchestrator")
