"""The page of licences has what we ask for, in the versions that are pinned."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_every_dependency_is_listed_as_it_is_pinned() -> None:
    page = (ROOT / "docs" / "licenses.md").read_text()
    listed = dict(re.findall(r"^\| (\S+) \| (\S+) \| .+ \|$", page, re.MULTILINE)[2:])
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {canonicalize_name(name): version.partition("+")[0] for name, version in pins.items()}
    assert {name: version for name, version in listed.items() if pinned.get(name, version) != version} == {}

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text).name for text in (*project["dependencies"], *extras["cluster"], *extras["server"])]
    assert {canonicalize_name(name) for name in asked} <= set(listed)
