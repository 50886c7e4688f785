"""A folder as a store; the same promises at S3 servers are in tests/ray/test_storage_s3.py."""

import os
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import StorageAccessError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.load import absolute_uri, join_uri
from orchestrator.storage.store import (
    ObjectChangedError,
    ObjectNotFoundError,
    Store,
    check_store,
    open_object,
    open_store,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_path_and_its_file_uri_name_the_same_store(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}") == open_store(str(tmp_path))
    assert open_store(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("runs/a").uri == str(tmp_path / "runs/a")


@pytest.mark.parametrize("name", ["set#2", "set?x", "a%20b", "100%", "with space", "ünï"])
def test_a_folder_or_file_of_any_name_is_the_one_that_is_meant(tmp_path: Path, name: str) -> None:
    root = absolute_uri(str(tmp_path))
    open_store(join_uri(root, f"{name}/train")).write_bytes(name, b"1")
    assert (tmp_path / name / "train" / name).read_bytes() == b"1"
    for uri in (join_uri(root, f"{name}/train/{name}"), f"{tmp_path}/{name}/train/{name}"):
        store, path = open_object(uri, S3Spec())
        assert store.read_bytes(path) == b"1"


def test_an_object_is_found_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri, folder in (("list.npy", str(tmp_path)), ("/list.npy", "/"), ("s3://b/a/list.npy", "s3://b/a")):
        store, path = open_object(uri, S3Spec())
        assert (store.uri, path) == (folder, "list.npy")


@pytest.mark.parametrize(
    "uri",
    [
        "gs://bucket/a",
        "s3://",
        "file://host/a",
        "file:///srv/a#1",
        "file:///srv/a?b",
        "s3://bucket/a#1",
        "s3://bucket/a?b",
    ],
)
def test_unknown_uri_is_refused_by_name(uri: str) -> None:
    with pytest.raises(StorageAccessError, match=re.escape(uri)):
        open_store(uri)


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", "a//b", "./a"])
def test_path_that_leaves_its_store_is_refused(store: Store, path: str) -> None:
    with pytest.raises(StorageAccessError, match="no path within a store"):
        store.write_bytes(path, b"")


def test_store_pickles(store: Store) -> None:
    store.write_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read_bytes("a") == b"1"
    remote = open_store("s3://bucket/prefix/", S3Spec(endpoint="http://127.0.0.1:9"))
    assert pickle.loads(pickle.dumps(remote)) == remote
    assert remote.child("x").uri == "s3://bucket/prefix/x"


def test_written_bytes_are_read_back_whole_and_in_ranges(store: Store) -> None:
    store.write_bytes("a/b", b"0123456789")
    assert store.read_bytes("a/b") == b"0123456789"
    assert store.read_range("a/b", 2, 3) == b"234"
    assert store.read_range("a/b", 8, 5) == b"89"
    assert store.read_range("a/b", 20, 5) == b""
    with store.open_input("a/b") as file:
        assert file.read_at(2, 4) == b"45"


def test_a_read_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    store.write_bytes("a", b"0123456789")
    etag = store.read_versioned("a")[1]
    assert store.read_range("a", 2, 3, etag) == b"234"
    with open(tmp_path / "a", "r+b") as file:  # in place: the same file, as long as before
        file.write(b"x")
    os.utime(tmp_path / "a", (1, 1))  # the clock of a file system ticks slowly
    with pytest.raises(ObjectChangedError, match="/a is no longer version"):
        store.read_range("a", 2, 3, etag)
    assert store.read_range("a", 2, 3) == b"234"


def test_a_copy_that_keeps_its_times_is_the_same_version(store: Store, tmp_path: Path) -> None:
    store.write_bytes("a", b"0123456789")
    info = store.stat("a")
    assert info is not None
    shutil.copy2(tmp_path / "a", tmp_path / "copy")  # as rsync -a brings it to another node: another inode
    os.replace(tmp_path / "copy", tmp_path / "a")
    assert store.stat("a") == info
    assert store.read_range("a", 2, 3, info.etag) == b"234"
    shutil.copyfile(tmp_path / "a", tmp_path / "copy")
    os.utime(tmp_path / "copy", (1, 1))
    os.replace(tmp_path / "copy", tmp_path / "a")
    with pytest.raises(ObjectChangedError, match=r"must keep their times \(rsync -a"):
        store.read_range("a", 2, 3, info.etag)


def test_absent_object_is_named(store: Store) -> None:
    for read in (store.read_bytes, store.open_input, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(ObjectNotFoundError, match="folder/nothing"):
            read("folder/nothing")
    assert store.stat("folder/nothing") is None
    assert store.list("folder") == ()
    store.delete("folder/nothing")
    store.delete_folder("folder")


def test_listing_is_recursive_sorted_and_free_of_temporary_files(store: Store, tmp_path: Path) -> None:
    for path in ("b", "a/2", "a/1/x"):
        store.create_bytes(path, b"12")
    (tmp_path / ".b.1234.tmp").write_bytes(b"half")
    assert [(info.path, info.size_bytes) for info in store.list()] == [("a/1/x", 2), ("a/2", 2), ("b", 2)]
    assert [info.path for info in store.list("a")] == ["a/1/x", "a/2"]
    assert store.child("a").list()[0] == store.child("a").stat("1/x")


def test_links_to_folders_elsewhere_are_followed_and_others_list_nothing_twice(tmp_path: Path) -> None:
    home, elsewhere = open_store(str(tmp_path / "home")), open_store(str(tmp_path / "elsewhere"))
    home.write_bytes("a/0.tar", b"0")
    elsewhere.write_bytes("b/1.tar", b"1")
    for link, target in {
        "home/far": "elsewhere",
        "home/latest": "home/a",
        "home/up": ".",
        "home/a/self": "home/a",
        "home/gone": "nowhere",
        "elsewhere/b/again": "elsewhere",
        "elsewhere/back": "home",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert [info.path for info in home.list()] == ["a/0.tar", "far/b/1.tar"]
    assert [info.path for info in home.list("far")] == ["far/b/1.tar"]


def test_folders_are_those_directly_within(store: Store) -> None:
    assert store.child("absent").folders() == ()
    for path in ("b", "c/1", "a/2", "a/1/x"):
        store.create_bytes(path, b"12")
    assert store.folders() == ("a", "c")
    assert store.child("a").folders() == ("1",)


def test_only_one_of_many_simultaneous_creators_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: store.create_bytes("lease", b"%d" % n), range(8)))
    assert sum(results) == 1
    assert store.read_bytes("lease") == b"%d" % results.index(True)


def test_replace_holds_to_the_etag(store: Store, tmp_path: Path) -> None:
    assert not store.replace_bytes("a", b"1", "absent")
    store.write_bytes("a", b"1")
    etag = store.read_versioned("a")[1]
    assert store.replace_bytes("a", b"2", etag)
    assert not store.replace_bytes("a", b"3", etag)
    assert store.read_bytes("a") == b"2"
    etag = store.read_versioned("a")[1]
    times = os.stat(tmp_path / "a")
    store.write_bytes("a", b"4")
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))  # as long as before, in the same tick
    assert not store.replace_bytes("a", b"5", etag)


def test_failed_write_leaves_the_old_content_and_no_rest(store: Store, tmp_path: Path) -> None:
    store.write_bytes("a", b"old")
    with pytest.raises(ObjectNotFoundError, match="no-such-source"):
        store.upload(tmp_path / "no-such-source", "a")
    assert store.read_bytes("a") == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_upload_and_download_copy_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 1000)
    store.upload(tmp_path / "source", "folder/copy")
    store.download("folder/copy", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == b"x" * 1000


def test_delete_folder_removes_all_below(store: Store) -> None:
    store.write_bytes("a/b/c", b"")
    store.write_bytes("ab", b"")
    store.delete_folder("a")
    assert [info.path for info in store.list()] == ["ab"]


def test_check_names_a_missing_folder_and_makes_one_to_write(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "absent"))
    with pytest.raises(StorageAccessError, match="absent does not exist"):
        check_store(store, write=False)
    check_store(store, write=True)
    check_store(store, write=False)
    assert store.list() == ()


def test_check_names_a_file_that_stands_where_a_folder_should(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageAccessError, match="file"):
        check_store(open_store(str(tmp_path / "file" / "runs")), write=True)
