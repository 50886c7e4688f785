"""``orchestrator data`` on a folder that is really read-only: a file system of its own."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A shard whose index was counted by img2dataset's note; its only caption is missing."""
    folder = tmp_path / "data"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a read-only folder")
    try:
        with tarfile.open(folder / "0.tar", "w") as tar:
            info = tarfile.TarInfo("0.jpg")
            info.size = 100
            tar.addfile(info, io.BytesIO(bytes(100)))
        (folder / "0_stats.json").write_text('{"successes": 1}')
        assert run("index", folder).exit_code == 0
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_findings_are_shown_with_what_was_not_kept(folder: Path) -> None:
    shown = run("verify", folder, "--processes", "1")
    assert shown.exit_code == 1
    assert "1 samples in 1 shards looked at: 2 problems" in shown.stdout
    assert "1 chunk tables were read and not kept" in shown.stdout
    assert "Read-only file system" in shown.stdout


def test_a_folder_that_takes_no_index_is_the_users_error(folder: Path) -> None:
    error = run("index", folder, "--chunks").exception
    assert getattr(error, "exit_code", None) == 2
    assert f"{folder} takes no index" in str(error)
    assert f"run: orchestrator data index {folder}" in str(error)
