"""Tags that say with which code a run was made."""

import subprocess
from pathlib import Path

import pytest
import torch

from orchestrator import __version__
from orchestrator.runs.code_version import code_tags, find_commit


def test_tags_name_the_package_and_what_it_runs_on() -> None:
    tags = code_tags()
    release = torch.__version__.partition("+")[0]  # PyPI's wheel leaves its CUDA out of the metadata
    assert tags["orchestrator.version"] == __version__
    assert tags["orchestrator.torch"].partition("+")[0] == release
    assert {"orchestrator.python", "orchestrator.ray", "orchestrator.deepspeed", "orchestrator.mlflow"} <= set(tags)


def test_a_commit_is_that_of_the_repository_that_tracks_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NAME", "EMAIL"):
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", "x")
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", "x")

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True, text=True
        ).stdout

    assert find_commit(tmp_path) is None
    git("init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / "other").touch()
    git("add", "other")
    git("commit", "-qm", "one")
    assert find_commit(package) is None, "a package in somebody's repository that does not track it"
    git("add", ".")
    git("commit", "-qm", "two")
    head = git("rev-parse", "HEAD").strip()
    assert find_commit(package) == head
    (package / "__init__.py").write_text("x = 1")
    assert find_commit(package) == f"{head}-dirty"
