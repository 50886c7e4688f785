"""Second and third attempts at input that failed."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import ShardReadError

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3  # on top of the store's own, which cannot resume an answer that breaks off midway
PAUSE_S = 0.25


def retried(read: Callable[[], T]) -> T:
    """The result of ``read``, which starts over at each attempt. Raises the last ShardReadError."""
    for attempt in range(1, ATTEMPTS):
        try:
            return read()
        except ShardReadError as error:
            logger.warning("reading again (attempt %d of %d): %s", attempt + 1, ATTEMPTS, error)
            time.sleep(PAUSE_S * 2**attempt)
    return read()
