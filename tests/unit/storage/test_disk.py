"""A disk that is really full: a file system of its own, of a quarter of a megabyte."""

import errno
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.errors import StorageAccessError
from orchestrator.runs.session import start_local_ray
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.storage.disk import is_full, naming_full_disk
from orchestrator.storage.range_cache import RangeCache
from orchestrator.storage.store import open_store
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint_folders import CheckpointRecord, EngineState, checkpoint_folder, find_stored
from orchestrator.training.fragment_files import Piece

LARGE = bytes(2**20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_store_on_a_full_disk_is_named_and_keeps_what_it_has(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(str(small_disk))
    store.write_bytes("a", b"old")
    (tmp_path / "large").write_bytes(LARGE)
    with pytest.raises(StorageAccessError, match=rf"the disk of {small_disk} on .* is full; make room"):
        store.write_bytes("a", LARGE)
    with pytest.raises(StorageAccessError, match="is full"):
        store.upload(tmp_path / "large", "b")
    with pytest.raises(StorageAccessError, match="is full"):
        open_store(str(tmp_path)).download("large", small_disk / "c")
    assert store.read_bytes("a") == b"old"
    assert [file.name for file in small_disk.iterdir()] == ["a"]


def test_a_checkpoint_that_does_not_fit_on_the_node_is_named_and_leaves_nothing(small_disk: Path) -> None:
    local = Path(tempfile.mkdtemp(dir=small_disk))
    pieces = [Piece("weight", 0, {"master": torch.zeros(10**6)})]
    with pytest.raises(StorageAccessError, match="TMPDIR"):
        checkpoint._write_locally(local, "0", pieces, {})
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_while_a_checkpoint_is_completed_is_named(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    checkpoints = checkpoint.Checkpoints(store, CheckpointSpec(), rank=0, world_size=1)
    word = json.dumps({"files": [], "layout": {}}).encode()
    store.write_bytes(f"{checkpoint_folder(1)}/{checkpoints._attempt}-00000.json", word)
    record = CheckpointRecord(1, "", {}, None, EngineState(1, 1, 1.0, None, {}))
    local = Path(tempfile.mkdtemp(dir=small_disk))
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "of somebody else").write_bytes(LARGE)
    with pytest.raises(StorageAccessError, match=rf"the disk of {small_disk} on .* is full.*TMPDIR"):
        checkpoints._complete(record, local)
    checkpoints.close()
    assert find_stored(store) is None


def test_ray_is_not_started_where_its_logs_have_no_room(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with pytest.raises(StorageAccessError, match=rf"the disk of {small_disk} on .* has 0 MiB left.*TMPDIR"):
        start_local_ray(num_cpus=1, object_store_bytes=2**27, forked=False)


def test_a_cache_on_a_full_disk_hands_on_what_it_cannot_keep(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RangeCache(str(small_disk), 2**30)
    for _ in range(2):
        assert cache.fetch("s3://b/a.tar", "1", 0, len(LARGE), lambda: LARGE) == LARGE
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{small_disk} is full" in caplog.text
    assert cache.fetch("s3://b/a.tar", "1", 0, 3, lambda: b"abc") == b"abc"


def test_other_errors_pass_as_they_are() -> None:
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    with pytest.raises(PermissionError), naming_full_disk("here"):
        raise PermissionError(errno.EACCES, "no")
