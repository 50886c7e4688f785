from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError
from orchestrator.storage.marker import (
    MARKER,
    delete_marked,
    download_file,
    read_marker,
    upload_files,
    write_marker,
)
from orchestrator.storage.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one complete folder ``step-10`` of two files."""
    source = tmp_path / "source"
    (source / "rank-0").mkdir(parents=True)
    (source / "rank-0" / "state").write_bytes(b"state" * 100)
    (source / "meta.json").write_bytes(b"{}")
    store = open_store(str(tmp_path / "store"))
    write_marker(store, "step-10", upload_files(store, "step-10", source))
    return store


def test_complete_folder_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    marker = read_marker(store, "step-10")
    assert marker.fault is None
    assert [(file.path, file.size_bytes) for file in marker.files] == [("meta.json", 2), ("rank-0/state", 500)]
    for file in marker.files:
        download_file(store, marker.folder, file, tmp_path / "copy" / file.path)
    assert (tmp_path / "copy" / "rank-0" / "state").read_bytes() == b"state" * 100


def test_folder_without_marker_does_not_count(store: Store) -> None:
    store.delete(f"step-10/{MARKER}")
    assert "is missing" in (read_marker(store, "step-10").fault or "")
    assert "is missing" in (read_marker(store, "never-written").fault or "")


def test_missing_or_short_file_is_named(store: Store) -> None:
    store.write_bytes("step-10/rank-0/state", b"short")
    assert "rank-0/state has 5 bytes" in (read_marker(store, "step-10").fault or "")
    store.delete("step-10/rank-0/state")
    assert "rank-0/state is missing" in (read_marker(store, "step-10").fault or "")


@pytest.mark.parametrize(
    "content",
    [
        b"{half",
        b"[]",
        b"null",
        b'{"version": 2, "files": []}',
        b'{"version": 1, "files": [{"path": "../../etc/x", "size_bytes": 1, "sha256": ""}]}',
        b'{"version": 1}',
    ],
)
def test_unreadable_marker_is_a_fault_not_a_crash(store: Store, content: bytes) -> None:
    store.write_bytes(f"step-10/{MARKER}", content)
    assert (read_marker(store, "step-10").fault or "").startswith(MARKER)


def test_changed_content_of_the_same_size_is_found_when_fetched(store: Store, tmp_path: Path) -> None:
    store.write_bytes("step-10/meta.json", b"[]")
    marker = read_marker(store, "step-10")
    with pytest.raises(CheckpointError, match=r"meta\.json is damaged"):
        download_file(store, marker.folder, marker.files[0], tmp_path / "copy" / "meta.json")
    assert not (tmp_path / "copy" / "meta.json").exists()


def test_deleted_folder_is_gone(store: Store) -> None:
    delete_marked(store, "step-10")
    assert store.list() == ()
