"""With which code and packages a run was made: tags of its record."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "ray", "deepspeed", "transformers", "mlflow")


@functools.cache
def code_tags() -> dict[str, str]:
    """Version of this package, its commit where it lies in a repository of its own, Python and what it runs on."""
    tags = {"orchestrator.version": version("vl-orchestrator"), "orchestrator.python": platform.python_version()}
    if commit := find_commit(Path(__file__).parents[1]):
        tags["orchestrator.commit"] = commit
    for name in _PACKAGES:
        try:
            tags[f"orchestrator.{name}"] = version(name)
        except PackageNotFoundError:
            tags[f"orchestrator.{name}"] = "absent"
    return tags


def find_commit(folder: Path) -> str | None:
    """The commit of the repository that tracks a folder, with ``-dirty`` where files differ from it; none: nobody does.

    A package that is installed somewhere below another repository has none.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
