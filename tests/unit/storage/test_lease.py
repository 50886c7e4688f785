import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import RunHeldError, StorageAccessError
from orchestrator.storage.lease import LEASE, Lease, acquire_lease
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def rewrite(store: Store, **changes: object) -> None:
    store.write_bytes(LEASE, json.dumps({**json.loads(store.read_bytes(LEASE)), **changes}).encode())


def wait_for_renewal(store: Store, lease: Lease) -> None:
    """Until the lease's own thread has looked at the file at least once more."""
    before = store.read_versioned(LEASE)[1]
    deadline = time.monotonic() + 30
    while store.read_versioned(LEASE)[1] == before and not lease.lost:
        assert time.monotonic() < deadline, "the lease was never renewed"
        time.sleep(0.01)


def test_second_holder_is_refused_by_name_until_release(store: Store) -> None:
    with acquire_lease(store, "host-a:1") as lease:
        assert not lease.lost
        with pytest.raises(RunHeldError, match=r"host-a:1.*takes over"):
            acquire_lease(store, "host-b:2")
    acquire_lease(store, "host-b:2").release()
    assert store.list() == ()


def test_lease_is_renewed_beyond_its_life(store: Store) -> None:
    with acquire_lease(store, "host-a:1", ttl_s=3) as lease:
        first = json.loads(store.read_bytes(LEASE))["expires_at"]
        wait_for_renewal(store, lease)
        assert json.loads(store.read_bytes(LEASE))["expires_at"] > first
        assert not lease.lost


def test_expired_lease_is_taken_over_and_its_holder_notices(store: Store) -> None:
    old = acquire_lease(store, "dead:1", ttl_s=3)
    rewrite(store, expires_at=0)
    new = acquire_lease(store, "host-b:2")
    deadline = time.monotonic() + 30
    while not old.lost:
        assert time.monotonic() < deadline, "the old holder never noticed"
        time.sleep(0.01)
    old.release()
    assert json.loads(store.read_bytes(LEASE))["holder"] == "host-b:2", "the loser removed the winner's lease"
    assert not new.lost
    new.release()


def test_of_many_simultaneous_takers_one_wins(store: Store) -> None:
    acquire_lease(store, "dead:1")._stop.set()  # its renewals end, as when its process dies
    rewrite(store, expires_at=0)
    start = threading.Barrier(6)

    def take(number: int) -> Lease | None:
        start.wait()
        try:
            return acquire_lease(store, f"host:{number}")
        except RunHeldError:
            return None

    with ThreadPoolExecutor(6) as pool:
        leases = [lease for lease in pool.map(take, range(6)) if lease is not None]
    assert len(leases) == 1
    leases[0].release()


@dataclass(frozen=True)
class UnconditionalStore(LocalStore):
    """A server that takes every write, whatever its condition, like rclone's."""

    def create_bytes(self, path: str, data: bytes) -> bool:
        self.write_bytes(path, data)
        return True

    def replace_bytes(self, path: str, data: bytes, etag: str) -> bool:
        self.write_bytes(path, data)
        return True

    def checks_conditions(self) -> bool:
        return False


def test_one_wins_even_where_the_server_ignores_conditions(tmp_path: Path) -> None:
    store = UnconditionalStore(str(tmp_path))
    start = threading.Barrier(4)

    def take(number: int) -> Lease | None:
        start.wait()
        try:
            return acquire_lease(store, f"host:{number}")
        except RunHeldError:
            return None

    with ThreadPoolExecutor(4) as pool:
        leases = [lease for lease in pool.map(take, range(4)) if lease is not None]
    assert len(leases) == 1
    leases[0].release()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"holder": 1, "expires_at": "soon"}'])
def test_file_that_is_no_lease_is_named(store: Store, content: bytes) -> None:
    store.write_bytes(LEASE, content)
    with pytest.raises(StorageAccessError, match=r"lease\.json is not a lease"):
        acquire_lease(store, "host-a:1")


def test_who_is_patient_takes_over_when_a_dead_holder_s_lease_ends(store: Store) -> None:
    acquire_lease(store, "dead:1").release()
    holding = {"holder": "dead:1", "token": "t", "since": 0.0, "renewed_at": 0.0, "expires_at": time.time() + 1.0}
    store.write_bytes(LEASE, json.dumps(holding).encode())
    with acquire_lease(store, "next:2", patience_s=30) as lease:
        assert not lease.lost
    store.write_bytes(LEASE, json.dumps({**holding, "expires_at": time.time() + 1000}).encode())
    with pytest.raises(RunHeldError, match="dead:1"):
        acquire_lease(store, "next:2", patience_s=0.1)


class Away(LocalStore):
    """A folder that nobody reaches for a while."""

    is_away = False

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        if self.is_away:
            raise StorageAccessError("away")
        return super().read_versioned(path)


def test_a_store_that_was_away_for_longer_than_a_life_ends_nothing(tmp_path: Path) -> None:
    store = Away(str(tmp_path))
    with acquire_lease(store, "host-a:1", ttl_s=0.5) as lease:
        store.is_away = True
        time.sleep(1)
        assert not lease.lost
        store.is_away = False
        wait_for_renewal(store, lease)
        assert not lease.lost


def test_who_took_over_meanwhile_is_found_when_the_store_is_back(tmp_path: Path) -> None:
    store = Away(str(tmp_path))
    with acquire_lease(store, "host-a:1", ttl_s=0.5) as lease:
        store.is_away = True
        time.sleep(1)
        with acquire_lease(LocalStore(str(tmp_path)), "host-b:2"):
            store.is_away = False
            deadline = time.monotonic() + 30
            while not lease.lost:
                assert time.monotonic() < deadline
                time.sleep(0.05)
