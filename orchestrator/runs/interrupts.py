"""Requests to stop while workers run: Ctrl-C and SIGTERM, or one from elsewhere (``live.py``).

The first asks for a checkpoint and an end; a signal after it ends at once.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.errors import Interrupted

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self, whole: "StopRequest | None" = None) -> None:
        """``whole``: of what this work is a part of; asked to stop, it asks this one too."""
        self._whole = whole
        self._reason = ""

    @property
    def reason(self) -> str:
        """Who asked first: the name of a signal or a rule; empty: nobody."""
        return self._reason or (self._whole.reason if self._whole else "")

    @property
    def requested(self) -> bool:
        """Whether anybody asked."""
        return bool(self.reason)

    def ask(self, reason: str) -> None:
        """Ask to stop; from any thread."""
        self._reason = self._reason or reason

    def raise_if_asked(self) -> None:
        """Raises Interrupted once anybody asked: for work that has nothing to keep."""
        if self.requested:
            raise Interrupted(self.reason)

    def listen(self) -> None:
        """Take the signals; again once Ray is started, which puts handlers of its own in their place."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self.handle)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """As a signal handler: remember the first request, raise where there was one."""
        name = signal.Signals(number).name
        if self.requested:
            raise Interrupted(f"{name} while stopping: ended at once, steps after the last checkpoint are lost")
        self.ask(name)
        logger.warning("%s: writing a checkpoint, then stopping (once more to stop at once)", name)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, SIGINT and SIGTERM set the yielded request; outside the main thread signals stay as they are."""
    request = StopRequest()
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in previous.items():
                signal.signal(number, handler)
