"""What a cluster says of itself: run there by ``submit`` and ``doctor``, ahead of any worker.

Called as ``python -m orchestrator.launch.look`` in a folder with ``cluster.yaml`` and, for a job, ``job.yaml``; prints
one line that starts with ``MARK``. Versions are told by ``VERSIONS``, which needs nothing of this package.
"""

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.env import apply_quiet_env
from orchestrator.runs.check import Finding, check_job
from orchestrator.runs.doctor import check_place
from orchestrator.runs.room import find_room
from orchestrator.spec.load import load_cluster, load_job

MARK = "orchestrator-look: "

VERSIONS = (
    "import importlib.metadata as m, json, os, platform, sys\n"
    "def version(name):\n"
    "    try: return m.version(name)\n"
    "    except m.PackageNotFoundError: return None\n"
    f"print({MARK!r} + json.dumps({{'python': platform.python_version(), 'ray': version('ray'), "
    "'vl-orchestrator': version('vl-orchestrator'), "
    "'missing': [name for name in sys.argv[1:] if not os.environ.get(name)]}))"
)
"""A program; its arguments are names of variables, of which it tells those that are not set."""


def own_versions() -> dict[str, str | None]:
    """The same of this machine."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("ray", "vl-orchestrator")}}


def compare_versions(theirs: dict[str, str | None]) -> list[str]:
    """What differs so that a job could mean something else there; of Python, the release line alone."""
    ours = own_versions()
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
    findings = [asdict(finding) for finding in _look(Path.cwd())]
    print(MARK + json.dumps(findings), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads of clients that wait for a server must not hold up the answer


def _look(folder: Path) -> Iterator[Finding]:
    cluster = load_cluster(str(folder / "cluster.yaml"))
    job = folder / "job.yaml"
    spec = load_job(str(job)) if job.exists() else None
    yield from check_place(cluster) if spec is None else check_job(spec, cluster)
    yield find_room(cluster, spec)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _line(text: str | None) -> str | None:
    return None if text is None else ".".join(text.split(".")[:2])


if __name__ == "__main__":
    main()
