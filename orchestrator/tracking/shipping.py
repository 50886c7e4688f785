"""Takes journal entries to a destination, in order, from a thread that never gives up and never raises.

Delivery is at least once: an entry counts as delivered when the destination has confirmed it, so a crash in between
sends it again. Destinations make that harmless (MLflow keeps one value per metric, time and step).

A destination that fails is tried again with growing pauses, for ever. An entry that it refuses as wrong is put
aside; so is one that fails again and again while the destination answers otherwise: nothing behind it has to wait.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from orchestrator.redaction import redact
from orchestrator.tracking.journal import DAMAGED, METRICS, Entry, Journal

logger = logging.getLogger(__name__)

_SHIP_INTERVAL_S = 2.0
_CLOSING_INTERVAL_S = 0.2
_HEARTBEAT_INTERVAL_S = 15.0
_LONGEST_PAUSE_S = 30.0
_LONGEST_CLOSING_PAUSE_S = 1.0
_MOST_TRIES = 5


class Destination(Protocol):
    """Where entries go. Any exception of any method means: not now, try again."""

    @property
    def run_id(self) -> str | None:
        """The record's id; None before ``open``."""

    def open(self) -> None:
        """Find or create the record; harmless when it is open."""

    def ship(self, entries: Sequence[Entry]) -> list[Entry]:
        """Deliver entries of one kind (several only for metrics); returns those refused as wrong."""

    def ping(self) -> None:
        """Raises when the destination does not answer."""

    def beat(self) -> None:
        """Say that the run lives, also where it was taken for dead."""


class Delivery:
    """Moves entries from a journal to a destination in the calling thread."""

    def __init__(self, journal: Journal, destination: Destination) -> None:
        self._journal = journal
        self._destination = destination
        self._tries = 0

    def drain(self, should_stop: Callable[[], bool]) -> None:
        """Deliver until nothing is left or ``should_stop()``; raises what the destination raises."""
        while entries := self._journal.read():
            for group in _groups(entries):
                if should_stop():
                    return
                self._ship(group)

    def _ship(self, group: Sequence[Entry]) -> None:
        try:
            refused = list(group) if group[0].kind == DAMAGED else self._destination.ship(group)
        except Exception as error:
            if not self._is_hopeless(group[0]):
                raise
            logger.warning("%s entry failed %d times: %s", group[0].kind, _MOST_TRIES, _brief(error))
            refused = list(group)
        if refused:
            self._journal.put_aside(refused)
            logger.warning(
                "put aside %d %s entries, first: %s", len(refused), refused[0].kind, _brief(refused[0].fields)
            )
        self._tries = 0
        self._journal.mark_shipped(group[-1].end)

    def _is_hopeless(self, entry: Entry) -> bool:
        """Whether this one entry is at fault. Metrics never are: they wait until the server has room again."""
        self._destination.ping()  # raises when the server is away: then nobody is at fault
        self._tries += 1
        return entry.kind != METRICS and self._tries >= _MOST_TRIES


class Shipper(threading.Thread):
    """The writer thread. ``tick`` is called every two seconds, server or not (samples of the machine)."""

    def __init__(
        self, journal: Journal, destination: Destination, *, heartbeat: bool, tick: Callable[[], None]
    ) -> None:
        super().__init__(name="tracking", daemon=True)
        self._journal = journal
        self._destination = destination
        self._delivery = Delivery(journal, destination)
        self._tick = tick
        self._heartbeat = heartbeat
        self._next_beat_s = 0.0
        self._next_try_s = 0.0
        self._failures = 0
        self._closing = threading.Event()
        self._opened = threading.Event()
        self._deadline_s = float("inf")

    def run_id(self, timeout_s: float) -> str | None:
        """The record's id, as soon as it exists within ``timeout_s``."""
        return self._destination.run_id if self._opened.wait(timeout_s) else None

    def stop_heartbeat(self) -> None:
        """The run has ended: its status is no longer ours to keep alive."""
        self._heartbeat = False

    def finish(self, timeout_s: float) -> None:
        """Deliver what is left, for at most ``timeout_s``, then return; the thread ends by itself."""
        self._deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        self.join(timeout_s)

    def run(self) -> None:
        while not self._is_past_deadline():
            if self._closing.is_set():
                self._next_try_s = min(self._next_try_s, time.monotonic() + _LONGEST_CLOSING_PAUSE_S)
            else:
                self._tick()
            if time.monotonic() >= self._next_try_s:
                self._try()
            if not self._closing.is_set():
                self._closing.wait(_SHIP_INTERVAL_S)
            elif self._journal.unshipped_bytes == 0:
                return
            else:
                time.sleep(_CLOSING_INTERVAL_S)

    def _try(self) -> None:
        try:
            self._destination.open()
            self._opened.set()
            self._beat()
            self._delivery.drain(should_stop=self._beat_and_check)
        except Exception as error:  # noqa: BLE001  (whatever a client raises, the training goes on; said and retried)
            self._failures += 1
            pause_s = min(_LONGEST_PAUSE_S, 0.5 * 2**self._failures) * random.uniform(0.5, 1.0)
            self._next_try_s = time.monotonic() + pause_s
            level = logging.WARNING if self._failures == 1 else logging.DEBUG
            logger.log(level, "tracking is out of reach, the run goes on and keeps a journal: %s", _brief(error))
            return
        if self._failures:
            logger.info("tracking is in reach again after %d tries; the journal is delivered", self._failures)
        self._failures = 0

    def _is_past_deadline(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def _beat_and_check(self) -> bool:
        """Called between groups: a long journal must not make the run look dead while it is delivered."""
        self._beat()
        return self._is_past_deadline()

    def _beat(self) -> None:
        if self._heartbeat and time.monotonic() >= self._next_beat_s:
            self._destination.beat()
            self._next_beat_s = time.monotonic() + _HEARTBEAT_INTERVAL_S


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Neighbouring metrics together, everything else one by one."""
    for kind, group in itertools.groupby(entries, key=lambda entry: entry.kind):
        if kind == METRICS:
            yield list(group)
        else:
            yield from ([entry] for entry in group)


def _brief(what: object) -> str:
    return redact(str(what)).replace("\n", " ")[:300]
