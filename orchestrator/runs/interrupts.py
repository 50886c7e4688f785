"""Ctrl-C and SIGTERM while workers run: the first asks for a checkpoint and an end, the second ends at once."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.errors import Interrupted

logger = logging.getLogger(__name__)


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """As a signal handler: remember the first signal, raise at the second."""
        name = signal.Signals(number).name
        if self.requested:
            raise Interrupted(f"{name} came twice; stopped at once, later steps than the last checkpoint are lost")
        self.requested, self.signal_name = True, name
        logger.warning("%s: writing a checkpoint, then stopping (once more to stop at once)", name)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, SIGINT and SIGTERM set the yielded request; outside the main thread signals stay as they are."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
