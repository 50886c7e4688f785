"""``orchestrator doctor``: every connection and version that a job needs, from here and from the cluster itself."""

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from orchestrator.errors import OrchestratorError
from orchestrator.launch.ray_jobs import RayJobs, connect
from orchestrator.launch.ray_token import who_reads_token
from orchestrator.launch.submit import look_at_place
from orchestrator.launch.versions import own_versions
from orchestrator.runs.check import Finding, check_takes_files
from orchestrator.runs.doctor import check_place
from orchestrator.runs.room import find_room
from orchestrator.spec.cluster import ClusterSpec

_MOST_SKEW_S = 10.0  # leases compare clocks of different machines, and live for a minute


def examine(cluster: ClusterSpec) -> Iterator[Finding]:
    """What holds and what does not; a cluster that takes no jobs is looked at from here."""
    if cluster.submit is None:
        yield from check_place(cluster)
        if cluster.ray.address is not None:
            yield find_room(cluster)
        return
    yield _find_storage(cluster)
    try:
        jobs = connect(cluster.submit)
    except OrchestratorError as error:
        yield Finding("Ray Jobs", False, str(error))
        return
    warnings = [warning for warning in (_warn_of_plain(cluster), who_reads_token()) if warning]
    yield Finding("Ray Jobs", True, "; ".join([f"{cluster.submit.dashboard} takes this token", *warnings]))
    yield _find_clock(jobs)
    try:
        findings = look_at_place(jobs, cluster)
    except OrchestratorError as error:
        yield Finding("versions and secrets", False, str(error))
        return
    versions = ", ".join(f"{name} {version}" for name, version in own_versions().items())
    yield Finding("versions and secrets", True, f"the same there as here: {versions}; secrets are set")
    for finding in findings:
        yield Finding(f"{finding.subject}, on the cluster", finding.holds, finding.detail)


def _find_storage(cluster: ClusterSpec) -> Finding:
    """``jobs`` and ``stop`` work on the runs' folders from here."""
    try:
        store = check_takes_files(cluster.storage.runs, cluster)
    except OrchestratorError as error:
        return Finding("runs, from here", False, str(error))
    return Finding("runs, from here", True, f"{store.uri} takes files")


def _find_clock(jobs: RayJobs) -> Finding:
    skew_s = jobs.clock_skew_s()
    if abs(skew_s) <= _MOST_SKEW_S:
        return Finding("clock", True, f"the cluster's is within {max(abs(skew_s), 1.0):.0f} s of the one here")
    return Finding("clock", False, f"the cluster's is {skew_s:+.0f} s off the one here; run NTP on both")


def _warn_of_plain(cluster: ClusterSpec) -> str:
    assert cluster.submit is not None
    parts = urlsplit(cluster.submit.dashboard)
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return ""
    return "plain http: whoever shares the network can read the token"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
