"""Writes docs/licenses.md: what an installation brings along, under which licence, as the installed packages say.

.venv/bin/python -m pip install 'vl-orchestrator[cluster,server]'
.venv/bin/python scripts/licenses.py
"""

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = "vl-orchestrator"
EXTRAS = {"cluster", "server"}
LONGEST = 60  # some packages file the whole text as its name

HEAD = """# Licences of what is installed

Packages that `pip install 'vl-orchestrator[cluster,server]'` brings along, each under the licence that its own metadata
name. Written by `scripts/licenses.py`; versions are those of `constraints.txt`. Images of `infra/` hold these and their
base images' parts; wheels of torch for CUDA bring NVIDIA's libraries under NVIDIA's terms.

The noun table of `orchestrator/wordnet` is made from WordNet 3.0 (`orchestrator/wordnet/LICENSE.wordnet`).

| package | version | licence |
| --- | --- | --- |
"""


def find_dependencies() -> dict[str, Distribution]:
    """All that is needed on this platform, directly or not, by name.

    Raises PackageNotFoundError for what is needed and not installed.
    """
    found: dict[str, Distribution] = {}
    to_visit = [Requirement(f"{PACKAGE}[{','.join(sorted(EXTRAS))}]")]
    seen: set[str] = set()
    while to_visit:
        requirement = to_visit.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        installed = distribution(requirement.name)
        found[canonicalize_name(requirement.name)] = installed
        for text in installed.requires or ():
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                to_visit.append(needed)
    del found[PACKAGE]
    return found


def name_license(installed: Distribution) -> str:
    """An SPDX expression, else what the classifiers say, else the field of old."""
    metadata = installed.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    of_classifiers = [
        text.split(" :: ")[-1] for text in metadata.get_all("Classifier") or () if text.startswith("License :: ")
    ]
    said = [name for name in of_classifiers if name != "OSI Approved"]
    old = (metadata.get("License") or "").strip().split("\n")[0]
    return ", ".join(said) or re.sub(r"[|\s]+", " ", old)[:LONGEST] or "not said"


def main() -> None:
    """Write the page."""
    rows = [
        f"| {name} | {installed.version.partition('+')[0]} | {name_license(installed)} |"
        for name, installed in sorted(find_dependencies().items())
    ]
    (ROOT / "docs" / "licenses.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
