"""Which Python, Ray and code of ours a machine has, told without this package, which the other side may lack.

Its own text is what ``submit`` and ``doctor`` hand to ``python -c`` there, with names of variables as arguments, of
which it tells those that are not set. Imports nothing of ours.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

MARK = "orchestrator-look: "
"""Begins a line that the submitter reads."""


def own_versions() -> dict[str, str | None]:
    """Of this machine; None: not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("ray", "vl-orchestrator")}}


def code_digest() -> str | None:
    """Of this package's modules, wherever they are: a version stays while code is worked on."""
    found = importlib.util.find_spec("orchestrator")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0])
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    not_set = [name for name in sys.argv[1:] if not os.environ.get(name)]
    print(MARK + json.dumps({**own_versions(), "code": code_digest(), "missing": not_set}))
