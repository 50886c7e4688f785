"""``orchestrator plan``: writes nothing, or with ``--prepare`` what a run would make first."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from orchestrator.cli.main import app

NUM_SAMPLES = 32
JOB = {
    "kind": "pretrain",
    "name": "planned",
    "data": {"kind": "shards", "train": [{"uri": "train", "select": {"deny": "deny.npy"}}]},
    "model": {"preset": "vit_nano_32"},
    "text": {"trained_size": 300},
    "batch": {"global_size": 8},
    "optimizer": {"learning_rate": 0.001},
    "objective": {"name": "clip"},
    "budget": {"epochs": 1},
}
CLUSTER = {"name": "here", "workers": {"count": 1, "accelerator": "cpu"}, "storage": {"data": "data", "runs": "runs"}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, a cluster, one shard and a list of one sample that is not wanted."""
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    np.save(tmp_path / "data/deny.npy", np.array(["00003", "of another pool"]))
    with tarfile.open(tmp_path / "data/train/0.tar", "w") as tar:
        for number in range(NUM_SAMPLES):
            for extension, content in (("jpg", b"not read"), ("txt", b"a red cube on the grass")):
                info = tarfile.TarInfo(f"{number:05d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", "job.yaml", "--cluster", "here", *arguments], catch_exceptions=True)


def test_what_is_not_made_yet_is_said_with_what_makes_it(place: Path) -> None:
    before = sorted(place.rglob("*"))
    refused = plan()
    assert refused.exit_code != 0
    assert "data/train has no index yet, or not what the job selects of it" in str(refused.exception)
    assert "orchestrator plan --prepare" in str(refused.exception)
    assert [path for path in sorted(place.rglob("*")) if path not in before and "state" not in path.parts] == []


def test_what_a_run_would_make_first_is_made_and_then_known(place: Path) -> None:
    made = plan("--prepare", "--json")
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    (source,) = document["data"]["sources"]
    assert source["shards"]["filtered"] == {"denied": 1}
    assert document["steps"] == 4  # of 31 samples
    shown = plan()
    assert shown.exit_code == 0, shown.output
    assert f"{NUM_SAMPLES - 1} of them selected (filtered: denied 1)" in " ".join(shown.stdout.split())
    assert json.loads(plan("--json").stdout) == document
