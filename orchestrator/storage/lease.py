"""A lease on a run's folder: one live holder, kept in ``lease.json``.

Algorithm. The file names its holder, a random token and when it expires; it is created and replaced by conditional
writes only, and renewed by a thread every third of its life. A lease past its end may be replaced by anyone. Where
a server ignores conditions (``Store.checks_conditions``), a new holder waits a moment and reads the file back:
of several simultaneous writers only the last finds its own token. It is lost once the file names another token: a
store that is away for longer than a life ends nothing by itself, since nobody can take the lease there meanwhile or,
seen from elsewhere, somebody has and the file says so as soon as it can be read.

Trade-off. Expiry compares clocks of different machines, so these must agree to a fraction of ``ttl_s``; in return
no server beside the store is needed.
"""

import json
import logging
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from orchestrator.errors import RunHeldError, ShardReadError, StorageAccessError
from orchestrator.storage.store import ObjectNotFoundError, Store

logger = logging.getLogger(__name__)

LEASE = "lease.json"
SETTLE_S = 2.0
_OVERDUE_S = 2.0  # between two tries once a lease has run out: nobody writes long into a run that went elsewhere


@dataclass(frozen=True)
class _Holding:
    """The content of the lease file; times are seconds since 1970."""

    holder: str
    token: str
    since: float
    renewed_at: float
    expires_at: float

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Lease:
    """A lease that this process holds; made by ``acquire_lease``. Usable in a ``with`` statement."""

    def __init__(self, store: Store, holding: _Holding, ttl_s: float) -> None:
        self._store = store
        self._holding = holding
        self._ttl_s = ttl_s
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another process holds the run by now, or the lease was deleted: stop writing."""
        return self._lost

    def release(self) -> None:
        """Let go at once, so that the next start need not wait; what belongs to another holder stays."""
        self._stop.set()
        self._thread.join()
        try:
            found = _read(self._store)
            if found is not None and found[0].token == self._holding.token:
                self._store.delete(LEASE)
        except (ShardReadError, StorageAccessError) as error:  # the work is done; the lease ends by itself
            logger.warning("lease on %s not released: %s", self._store.uri, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _renew_until_stopped(self) -> None:
        while not self._lost and not self._stop.wait(self._pause_s()):
            try:
                self._renew()
            except (ShardReadError, StorageAccessError) as error:
                left_s = self._holding.expires_at - time.time()
                logger.warning("lease on %s not renewed (%.0f s left): %s", self._store.uri, left_s, error)

    def _pause_s(self) -> float:
        return self._ttl_s / 3 if time.time() < self._holding.expires_at else min(_OVERDUE_S, self._ttl_s / 3)

    def _renew(self) -> None:
        found = _read(self._store)
        if found is not None and found[0].token == self._holding.token:
            renewed = _holding(self._holding.holder, self._ttl_s, self._holding.token, self._holding.since)
            # A refused write is looked at again in the next round: a retried request is refused by its own first try.
            if self._store.replace_bytes(LEASE, renewed.to_bytes(), found[1]):
                self._holding = renewed
            return
        self._lost = True
        taker = "nobody" if found is None else found[0].holder
        logger.error("lease on %s lost; its file names %s", self._store.uri, taker)


LOST_HOLDER_S = 70.0
"""Patience that outlasts the lease of a holder that was killed."""


def acquire_lease(store: Store, holder: str, ttl_s: float = 60.0, patience_s: float = 0.0) -> Lease:
    """Hold the run in ``store``; an expired lease is taken over.

    Args:
        holder: who asks, for messages (host and process).
        ttl_s: life of the lease without a renewal.
        patience_s: how long to wait for the end of a lease whose holder may be dead.

    Raises RunHeldError while another holder is live.
    """
    found = _read(store)
    deadline_s = time.monotonic() + patience_s
    while found is not None and _is_live(found[0]) and time.monotonic() < deadline_s:
        time.sleep(1.0)
        found = _read(store)
    if found is not None and _is_live(found[0]):
        raise _held(store, found[0])
    holding = _holding(holder, ttl_s)
    if found is None:
        written = store.create_bytes(LEASE, holding.to_bytes())
    else:
        logger.warning("taking over the run in %s from %s, silent since its lease ended", store.uri, found[0].holder)
        written = store.replace_bytes(LEASE, holding.to_bytes(), found[1])
    if written and not store.checks_conditions():
        time.sleep(SETTLE_S)
    winner = _read(store)
    if winner is None or winner[0].token != holding.token:  # also covers a write whose answer was lost
        raise (
            _held(store, winner[0]) if winner else RunHeldError(f"the lease on {store.uri} changes hands; start again")
        )
    return Lease(store, holding, ttl_s)


def check_free(store: Store) -> None:
    """Raises RunHeldError while somebody holds the run in ``store``."""
    found = _read(store)
    if found is not None and _is_live(found[0]):
        raise _held(store, found[0])


def _is_live(holding: _Holding) -> bool:
    return time.time() <= holding.expires_at


def _holding(holder: str, ttl_s: float, token: str | None = None, since: float | None = None) -> _Holding:
    now = time.time()
    return _Holding(holder, token or secrets.token_hex(16), since or now, now, now + ttl_s)


def _read(store: Store) -> tuple[_Holding, str] | None:
    """The lease file and its etag; None when there is none."""
    try:
        data, etag = store.read_versioned(LEASE)
    except ObjectNotFoundError:
        return None
    try:
        content = json.loads(data)
        return _Holding(
            holder=str(content["holder"]),
            token=str(content["token"]),
            since=float(content["since"]),
            renewed_at=float(content["renewed_at"]),
            expires_at=float(content["expires_at"]),
        ), etag
    except (ValueError, KeyError, TypeError) as error:
        raise StorageAccessError(
            f"{store.uri}/{LEASE} is not a lease ({error!r}); delete it if no run is live"
        ) from error


def _held(store: Store, holding: _Holding) -> RunHeldError:
    now = time.time()
    return RunHeldError(
        f"the run in {store.uri} is held by {holding.holder} for {now - holding.since:.0f} s, "
        f"renewed {now - holding.renewed_at:.0f} s ago. Stop it there first; if it is dead, start again in "
        f"{max(holding.expires_at - now, 0):.0f} s and this start takes over (or delete {LEASE})"
    )
