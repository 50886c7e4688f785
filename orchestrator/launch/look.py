"""What a cluster says of itself: run there by ``submit`` and ``doctor``, ahead of any worker.

Called as ``python -m orchestrator.launch.look`` in a folder with ``cluster.yaml`` and, for a job, ``job.yaml``; prints
one line that starts with ``versions.MARK``: what it finds, and which submissions the run's folder names.
"""

import inspect
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from orchestrator.env import apply_quiet_env
from orchestrator.errors import OrchestratorError
from orchestrator.launch import versions
from orchestrator.runs.check import Finding, check_job
from orchestrator.runs.doctor import check_place
from orchestrator.runs.live import named_submissions
from orchestrator.runs.room import find_room
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.kinds import Job
from orchestrator.spec.load import join_uri, load_cluster, load_job
from orchestrator.storage.store import open_store

VERSIONS = inspect.getsource(versions)
"""A program of its own."""


def compare_versions(theirs: dict[str, str | None]) -> list[str]:
    """What differs so that a job could mean something else there; of Python, the release line alone."""
    ours = versions.own_versions()
    differences = []
    for name, own in ours.items():
        other = theirs.get(name)
        alike = _line(own) == _line(other) if name == "python" else own == other
        if not alike:
            differences.append(f"{name} is {other or 'not installed'} on the cluster and {own or 'not installed'} here")
    return differences


def main() -> None:
    """Look, and print."""
    apply_quiet_env()
    cluster = load_cluster("cluster.yaml")
    job = load_job("job.yaml") if Path("job.yaml").exists() else None
    findings = [asdict(finding) for finding in _look(cluster, job)]
    print(versions.MARK + json.dumps({"findings": findings, "submissions": submissions_of(cluster, job)}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads of clients that wait for a server must not hold up the answer


def _look(cluster: ClusterSpec, job: Job | None) -> Iterator[Finding]:
    yield from check_place(cluster) if job is None else check_job(job, cluster)
    yield find_room(cluster, job)


def submissions_of(cluster: ClusterSpec, job: Job | None) -> list[str]:
    """Those that the job's run has had, as its folder knows them."""
    if job is None:
        return []
    try:
        return named_submissions(open_store(join_uri(cluster.storage.runs, job.name), cluster.storage.s3))
    except OrchestratorError:
        return []  # of storage that does not open the findings tell


def _line(text: str | None) -> str | None:
    return None if text is None else ".".join(text.split(".")[:2])


if __name__ == "__main__":
    main()
