"""``orchestrator data index``: says what it reads, before and after."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of three samples, one of them with img2dataset's note."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in range(3):
                info = tarfile.TarInfo(f"{number}.jpg")
                info.size = 100
                tar.addfile(info, io.BytesIO(bytes(100)))
    (tmp_path / "0_stats.json").write_text('{"count": 5, "successes": 3}')
    return tmp_path


def index(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "index", str(folder), *arguments])


def test_what_will_be_read_and_what_was_is_said(folder: Path) -> None:
    shown = index(folder)
    assert shown.exit_code == 0, shown.output
    assert (
        "2 shards (1 counted by _stats.json, 1 to read); at most 3 requests, 0.0 MB, about 0.0 minutes" in shown.stderr
    )
    assert "6 samples in 2 shards (1 without a chunk table yet); digest" in shown.stdout
    assert "read in 3 requests, 0.0 MB, 0.0 minutes" in shown.stdout
    again = index(folder, "--chunks")
    assert "2 shards (1 known, 1 to read)" in again.stderr
    assert "6 samples in 2 shards; digest" in again.stdout


def test_json_has_the_same(folder: Path) -> None:
    document = json.loads(index(folder, "--json").stdout)
    assert (document["num_samples"], document["without_chunk_table"]) == (6, 1)
    assert document["shards"] == {"known": 0, "counted": 1, "read": 1}
    assert document["actual"]["requests"] == document["estimated"]["requests"] == 3
    assert 0 < document["actual"]["num_bytes"] <= document["estimated"]["num_bytes"]
    assert json.loads(index(folder, "--chunks", "--json").stdout)["shards"] == {"known": 1, "counted": 0, "read": 1}
