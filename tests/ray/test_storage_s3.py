"""S3 as a store, against real servers: rclone's (the shared fixture) and moto's, which heeds conditional writes."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.data import retry
from orchestrator.data.audit import SampleRules
from orchestrator.data.evaluation_set import read_evaluation_rows
from orchestrator.data.index import load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.readers import read_chunk
from orchestrator.data.verify import fix_index, verify_dataset
from orchestrator.errors import DatasetError, RunHeldError, ShardDamagedError, ShardReadError, StorageAccessError
from orchestrator.spec.cluster import CacheSpec, S3Spec
from orchestrator.storage.lease import LEASE, acquire_lease
from orchestrator.storage.marker import download_file, read_marker, upload_files, write_marker
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.store import ObjectNotFoundError, Store, check_store, open_store

if TYPE_CHECKING:
    from tests.conftest import S3Server

QUICK = {"request_timeout_s": 5.0, "max_attempts": 2}


@pytest.fixture
def store(s3_server: "S3Server", request: pytest.FixtureRequest) -> Store:
    """A prefix of its own for each test."""
    return open_store(f"{s3_server.uri}/{abs(hash(request.node.name))}", S3Spec(endpoint=s3_server.endpoint, **QUICK))


@pytest.fixture(scope="module")
def conditional_store(s3_server: "S3Server", start_server: Callable[[list[str]], str]) -> Store:
    """A store at a server that heeds If-Match and If-None-Match; credentials are those of ``s3_server``."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    endpoint = start_server([sys.executable, str(Path(__file__).parents[1] / "shared" / "moto_one_at_a_time.py")])
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    client.close()
    return open_store("s3://bucket/runs", S3Spec(endpoint=endpoint, **QUICK))


def test_written_bytes_are_read_back_whole_and_in_ranges(store: Store) -> None:
    store.write_bytes("a/b", b"0123456789")
    assert store.read_bytes("a/b") == b"0123456789"
    assert store.read_range("a/b", 2, 3) == b"234"
    assert store.read_range("a/b", 8, 5) == b"89"
    assert store.read_range("a/b", 20, 5) == b""
    assert store.read_range("a/b", 0, 0) == b""
    with store.open_input("a/b") as file:
        assert file.read_at(2, 4) == b"45"


def test_a_plain_range_needs_no_second_question(store: Store) -> None:
    assert isinstance(store, S3Store)
    store.write_bytes("name with spaces/ü.bin", b"0123456789")
    info = store.stat("name with spaces/ü.bin")
    assert info is not None
    ranges = store._ranges
    assert ranges.read(store._key(info.path), 2, 3, info.etag) == b"234"
    assert ranges.read(store._key(info.path), 8, 9, "") == b"89"
    assert ranges.read(store._key(info.path), 2, 3, "another") is None
    assert ranges.read(store._key("absent"), 2, 3, "") is None


def test_a_cached_range_crosses_the_network_once(store: Store, tmp_path: Path) -> None:
    assert isinstance(store, S3Store)
    cached = open_store(store.uri, store.s3, CacheSpec(folder=str(tmp_path / "cache"), max_bytes=2**20))
    store.write_bytes("a", b"0123456789")
    info = store.stat("a")
    assert info is not None
    assert pickle.loads(pickle.dumps(cached)).read_range("a", 2, 3, info.etag) == b"234"
    store.delete("a")
    assert cached.read_range("a", 2, 3, info.etag) == b"234"
    with pytest.raises(ObjectNotFoundError):
        cached.read_range("a", 2, 4, info.etag)


def test_a_cached_chunk_of_parquet_crosses_the_network_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(store, S3Store)
    sink = io.BytesIO()
    rows = [{"jpg": os.urandom(200), "txt": f"caption {number}"} for number in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=50)
    store.write_bytes("0.parquet", sink.getvalue())
    cached = open_store(store.uri, store.s3, CacheSpec(folder=str(tmp_path / "cache"), max_bytes=2**20))
    (shard,) = index_dataset(store).shards
    network: list[int] = []

    def read_range(self: S3Store, path: str, offset: int, length: int, etag: str = "") -> bytes:
        network.append(length)
        return direct(self, path, offset, length, etag)

    direct = S3Store.read_range
    monkeypatch.setattr(S3Store, "read_range", read_range)
    for chunk in (0, 1):
        assert read_chunk(cached, shard, chunk) == read_chunk(store, shard, chunk)
    num_first = len(network)
    assert num_first > 0
    assert [sample.members["txt"] for sample in read_chunk(cached, shard, 0)][:2] == [b"caption 0", b"caption 1"]
    assert len(network) == num_first
    with pytest.raises(ObjectNotFoundError, match="nothing"):
        cached.open_input("nothing")


def test_store_pickles_without_its_connection(store: Store) -> None:
    store.write_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read_bytes("a") == b"1"


def test_absent_object_is_named(store: Store) -> None:
    for read in (store.read_bytes, store.open_input, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(ObjectNotFoundError, match="folder/nothing"):
            read("folder/nothing")
    assert store.stat("folder/nothing") is None
    assert store.list("folder") == ()
    store.delete("folder/nothing")
    store.delete_folder("folder")


def test_listing_is_recursive_and_relative_to_its_store(store: Store) -> None:
    for path in ("b", "a/2", "a/1/x", "ab"):
        store.write_bytes(path, b"12")
    assert [(info.path, info.size_bytes) for info in store.list()] == [("a/1/x", 2), ("a/2", 2), ("ab", 2), ("b", 2)]
    assert [info.path for info in store.list("a")] == ["a/1/x", "a/2"]
    assert store.child("a").list()[0] == store.child("a").stat("1/x")
    store.delete_folder("a")
    assert [info.path for info in store.list()] == ["ab", "b"]


def test_folders_are_those_directly_within(store: Store, conditional_store: Store) -> None:
    for one in (store, conditional_store.child("listed")):
        assert one.folders() == ()
        for path in ("b", "c/1", "a/2", "a/1/x"):
            one.write_bytes(path, b"12")
        assert one.folders() == ("a", "c")
        assert one.child("a").folders() == ("1",)


def test_bucket_root_is_a_store_too(s3_server: "S3Server") -> None:
    store = open_store(s3_server.uri, S3Spec(endpoint=s3_server.endpoint, **QUICK))
    store.write_bytes("at-the-root", b"1")
    assert "at-the-root" in [info.path for info in store.list()]
    assert (s3_server.folder / "at-the-root").read_bytes() == b"1"


def test_large_files_travel_in_parts(store: Store, tmp_path: Path) -> None:
    content = os.urandom(2**20) * 40
    (tmp_path / "source").write_bytes(content)
    store.upload(tmp_path / "source", "folder/large")
    store.download("folder/large", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == content


def test_failed_download_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="absent"):
        store.download("absent", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_complete_folder_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "state").write_bytes(b"state")
    files = upload_files(store, "step-1", tmp_path / "source")
    assert read_marker(store, "step-1").fault is not None
    write_marker(store, "step-1", files)
    download_file(store, "step-1", read_marker(store, "step-1").files[0], tmp_path / "copy" / "state")
    assert (tmp_path / "copy" / "state").read_bytes() == b"state"


def test_conditions_hold_one_writer_after_another(store: Store) -> None:
    assert store.create_bytes("a", b"1")
    assert not store.create_bytes("a", b"2")
    etag = store.read_versioned("a")[1]
    assert store.replace_bytes("a", b"3", etag)
    assert not store.replace_bytes("a", b"4", etag)
    assert not store.replace_bytes("absent", b"5", etag)
    assert store.read_bytes("a") == b"3"


def test_conditions_hold_between_simultaneous_writers(conditional_store: Store) -> None:
    assert conditional_store.checks_conditions()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: conditional_store.create_bytes("once", b"%d" % n), range(8)))
    assert sum(results) == 1
    assert conditional_store.read_bytes("once") == b"%d" % results.index(True)


def test_a_server_that_ignores_conditions_is_told_apart(store: Store) -> None:
    assert not store.checks_conditions()
    assert store.list() == ()


def contend(store: Store, num_starts: int) -> list[str]:
    """Start that many holders at once; the names of those that got the lease."""
    barrier = threading.Barrier(num_starts)

    def take(number: int) -> str | None:
        barrier.wait()
        try:
            acquire_lease(store, f"host:{number}")
        except RunHeldError:
            return None
        return f"host:{number}"

    with ThreadPoolExecutor(num_starts) as pool:
        return [name for name in pool.map(take, range(num_starts)) if name is not None]


@pytest.mark.parametrize("server", ["store", "conditional_store"])
def test_one_of_many_starts_gets_the_lease_and_a_dead_one_is_replaced(
    server: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(server).child("run")
    winners = contend(run, 4)
    assert len(winners) == 1
    with pytest.raises(RunHeldError, match=winners[0]):
        acquire_lease(run, "host:late")
    run.write_bytes(LEASE, json.dumps({**json.loads(run.read_bytes(LEASE)), "expires_at": 0}).encode())
    with acquire_lease(run, "host:heir") as lease:
        assert not lease.lost
        assert json.loads(run.read_bytes(LEASE))["holder"] == "host:heir"
    assert run.stat(LEASE) is None


def change_bucket(store: Store) -> Store:
    assert isinstance(store, S3Store)
    return open_store("s3://no-such-bucket/x", store.s3)


def change_endpoint(store: Store) -> Store:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return open_store(store.uri, S3Spec(endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}", **QUICK))


def misspell_endpoint(store: Store) -> Store:
    return open_store(store.uri, S3Spec(endpoint="not a url", **QUICK))


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_bucket, r"s3://no-such-bucket/x at http.*bucket 'no-such-bucket' does not exist; create it"),
        (change_endpoint, r"endpoint http://127\.0\.0\.1:\d+ does not answer.*storage\.s3\.endpoint"),
        (misspell_endpoint, r"not a url.*correct storage\.s3\.endpoint"),
    ],
)
def test_check_says_what_to_change(store: Store, change: Callable[[Store], Store], message: str, write: bool) -> None:
    with pytest.raises(StorageAccessError, match=message):
        check_store(change(store), write=write)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AWS_ACCESS_KEY_ID", "credentials refused .InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "credentials refused .SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_wrong_credentials_are_named_and_not_shown(
    s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setenv(name, "wrong-value-of-a-key")
    fresh = open_store(f"{s3_server.uri}/{name}", S3Spec(endpoint=s3_server.endpoint, region=f"test-{name[4]}"))
    with pytest.raises(StorageAccessError, match=message) as caught:
        check_store(fresh, write=False)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_missing_credentials_are_named(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fresh = open_store(s3_server.uri, S3Spec(endpoint=s3_server.endpoint, region="test-missing"))
    with pytest.raises(StorageAccessError, match=r"no usable credentials.*set AWS_ACCESS_KEY_ID"):
        check_store(fresh, write=False)


@contextlib.contextmanager
def server_with_key(folder: Path, port: int, key: str) -> Iterator[None]:
    """A server that takes this key and no other."""
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{key},secret-of-{key}", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield
        finally:
            server.terminate()


def test_session_credentials_that_expire_are_renewed_in_mid_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def issue(key: str, seconds: float) -> None:
        expiration = datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()
        keys = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": f"secret-of-{key}", "Expiration": expiration}
        (tmp_path / "keys.json").write_text(json.dumps(keys))

    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/keys.json\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    store = open_store("s3://bucket", S3Spec(endpoint=f"http://127.0.0.1:{port}", **QUICK))
    assert isinstance(store, S3Store)
    issue("first", 3)
    with server_with_key(tmp_path / "served", port, "first"):
        store.write_bytes("a", b"0123")
        assert store._ranges.read("a", 0, 4, "") == b"0123"
        with store.open_input("a") as file:
            assert file.read() == b"0123"
    with server_with_key(tmp_path / "served", port, "second"):
        time.sleep(3)  # until the first key has expired
        issue("second", 3600)
        assert store._ranges.read("a", 0, 4, "") == b"0123"
        assert store.read_bytes("a") == b"0123"
        with store.open_input("a") as file:
            assert file.read() == b"0123"


class Expired(BaseHTTPRequestHandler):
    """What AWS answers to the keys of a session that has ended."""

    def do_GET(self) -> None:
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("s3_server")
def test_credentials_that_have_expired_are_named_with_what_renews_itself() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Expired) as server:
        threading.Thread(target=server.serve_forever).start()
        store = open_store("s3://bucket/a", S3Spec(endpoint=f"http://127.0.0.1:{server.server_port}", **QUICK))
        for read in (store.read_bytes, lambda path: store.read_range(path, 0, 4)):
            with pytest.raises(StorageAccessError, match=r"credentials have expired .ExpiredToken.*credential_process"):
                read("x")
        server.shutdown()


def test_check_passes_and_leaves_nothing(store: Store) -> None:
    check_store(store, write=True)
    assert store.list() == ()


def test_server_that_goes_away_is_a_failure_of_the_work_not_of_the_user(store: Store) -> None:
    with pytest.raises(ShardReadError, match="failed after its retries"):
        change_endpoint(store).read_range("a", 0, 10)


@pytest.fixture
def shards_folder(tmp_path: Path) -> Path:
    """130 samples in two tar shards."""
    for number, count in (("0", 100), ("1", 30)):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for sample in range(count):
                for extension, data in (("png", png_bytes(sample)), ("txt", b"caption %d" % sample)):
                    info = tarfile.TarInfo(f"{sample:04d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return tmp_path


def png_bytes(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_data_set_is_the_same_in_a_bucket_as_on_disk(store: Store, shards_folder: Path) -> None:
    local = open_store(str(shards_folder))
    for name in ("0.tar", "1.tar"):
        store.upload(shards_folder / name, name)
    there, here = index_dataset(store), index_dataset(local)
    assert there.digest == here.digest
    save_index(store, there)
    assert load_index(store) == there
    save_index(store, here)  # as when a folder is copied with its index: the etags of the disk mean nothing here
    here = replace(here, shards=here.shards.without_etags())
    assert load_index(store) == here
    rows = read_evaluation_rows(store, there, 8, 1, 2, caption_fields=("txt",))
    expected = read_evaluation_rows(local, here, 8, 1, 2, caption_fields=("txt",))
    for row, other in zip(rows, expected, strict=True):
        assert (row.index, row.caption, row.image.tobytes()) == (other.index, other.caption, other.image.tobytes())


def test_a_shard_written_again_in_the_bucket_is_noticed(store: Store, shards_folder: Path) -> None:
    content = (shards_folder / "1.tar").read_bytes()
    store.write_bytes("1.tar", content)
    save_index(store, index_dataset(store))
    store.write_bytes("1.tar", content[:-1] + b"\1")
    with pytest.raises(DatasetError, match=r"1\.tar was written again; run: orchestrator data index s3://"):
        load_index(store)


def test_a_data_set_in_a_bucket_is_verified(store: Store, shards_folder: Path) -> None:
    for name in ("0.tar", "1.tar"):
        store.upload(shards_folder / name, name)
    result = verify_dataset(store, SampleRules(), 2)
    assert (result.num_samples, result.counts) == (130, {"sample_duplicate": 30})  # the second shard repeats the first
    fix_index(store, result)
    index = load_index(store)
    assert index is not None
    assert index.shards[0].sha256 == hashlib.sha256((shards_folder / "0.tar").read_bytes()).hexdigest()
    content = (shards_folder / "1.tar").read_bytes()
    store.write_bytes("1.tar", content[:10_000])
    result = verify_dataset(store, SampleRules(), 1)
    assert set(result.counts) == {"size_mismatch", "truncated_data", "sample_duplicate"}


@pytest.mark.parametrize("server", ["store", "conditional_store"])
def test_a_shard_written_again_since_it_was_indexed_is_refused(
    server: str, request: pytest.FixtureRequest, shards_folder: Path
) -> None:
    store = request.getfixturevalue(server).child("written-again")
    content = (shards_folder / "0.tar").read_bytes()
    store.write_bytes("0.tar", content)
    pq.write_table(pa.table({"txt": ["a"], "png": [png_bytes(1)]}), shards_folder / "b.parquet")
    store.child("parquet").upload(shards_folder / "b.parquet", "b.parquet")
    indexes = {folder.uri: (folder, index_dataset(folder).shards[0]) for folder in (store, store.child("parquet"))}
    for folder, shard in indexes.values():
        assert read_chunk(folder, shard, 0)
    store.write_bytes("0.tar", content[:-1] + b"\1")  # behind the end marker: only the etag tells
    pq.write_table(pa.table({"txt": ["b"], "png": [png_bytes(1)]}), shards_folder / "b.parquet")
    store.child("parquet").upload(shards_folder / "b.parquet", "b.parquet")
    for folder, shard in indexes.values():
        with pytest.raises(ShardDamagedError, match=r"the shard was written again.*orchestrator data index s3://"):
            read_chunk(folder, shard, 0)


class BreakingServer(ThreadingHTTPServer):
    """Serves one object; the first answers break off in the middle."""

    daemon_threads = True

    def __init__(self, content: bytes, num_broken: int) -> None:
        super().__init__(("127.0.0.1", 0), BreakingHandler)
        self.content = content
        self.num_broken = num_broken


class BreakingHandler(BaseHTTPRequestHandler):
    server: BreakingServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", f"bytes=0-{len(self.server.content)}")
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        body = self.server.content[first : last + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        broken = self.server.num_broken > 0
        self.server.num_broken -= 1
        self.wfile.write(body[: len(body) // 2] if broken else body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keeps the test's output quiet."""


@pytest.mark.parametrize(("num_broken", "succeeds"), [(2, True), (100, False)])
def test_an_answer_that_breaks_off_is_read_again_and_loses_nothing(
    s3_server: "S3Server", shards_folder: Path, monkeypatch: pytest.MonkeyPatch, num_broken: int, succeeds: bool
) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0)
    local = open_store(str(shards_folder))
    shard = replace(index_dataset(local).shards[0], etag="etag")
    with BreakingServer((shards_folder / "0.tar").read_bytes(), num_broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        broken = open_store("s3://bucket", S3Spec(endpoint=f"http://127.0.0.1:{server.server_port}", **QUICK))
        try:
            if succeeds:
                assert broken.read_bytes("0.tar") == local.read_bytes("0.tar")
                server.num_broken = num_broken
                assert read_chunk(broken, shard, 1) == read_chunk(local, replace(shard, etag=""), 1)
            else:
                for read in (lambda: read_chunk(broken, shard, 1), lambda: broken.read_bytes("0.tar")):
                    with pytest.raises(ShardReadError, match=r"0\.tar at http.*failed after its retries"):
                        read()
        finally:
            server.shutdown()
