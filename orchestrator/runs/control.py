"""The line between the driver and rank 0: an actor that keeps reports until the driver takes them.

The driver is the only one that talks to MLflow; a worker's part is one message that nobody waits for. The actor
lives on the driver's node and holds no CPU.
"""

import logging
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.training.reports import Report, Wish

logger = logging.getLogger(__name__)

_ASK_INTERVAL_S = 0.5
_FLUSH_TIMEOUT_S = 30.0


class _Mailbox:
    """State of the actor."""

    def __init__(self) -> None:
        self._reports: list[Report] = []
        self._wish = Wish.GO_ON

    def send(self, report: Report) -> None:
        self._reports.append(report)

    def take(self) -> list[Report]:
        taken, self._reports = self._reports, []
        return taken

    def ask(self, wish: Wish) -> None:
        self._wish = max(self._wish, wish)

    def wish(self) -> Wish:
        return self._wish


class RunControl:
    """The driver's end."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()

    def take(self) -> list[Report]:
        """All reports since the last call, in order."""
        reports: list[Report] = ray.get(self.mailbox.take.remote())
        return reports

    def ask(self, wish: Wish) -> None:
        """Ask the workers to end, with or without a checkpoint."""
        ray.get(self.mailbox.ask.remote(wish))


class MailboxLink:
    """Rank 0's end; implements ``training.reports.DriverLink``. Asks at most twice a second; waits at the end alone."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._last_sent: Any = None
        self._answer: Any = None
        self._asked_s = 0.0
        self._wish = Wish.GO_ON

    def send(self, report: Report) -> None:
        """Hand over a report; an actor delivers calls of one caller in order."""
        self._last_sent = self._mailbox.send.remote(report)

    def flush(self) -> None:
        """Wait until all that was sent lies in the mailbox: the driver empties it once the workers have ended."""
        if self._last_sent is not None:
            ray.wait([self._last_sent], timeout=_FLUSH_TIMEOUT_S)

    def wish(self) -> Wish:
        """The last answer that came."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._wish = ray.get(self._answer)
            self._answer = None
        if self._answer is None and time.monotonic() - self._asked_s > _ASK_INTERVAL_S:
            self._answer = self._mailbox.wish.remote()
            self._asked_s = time.monotonic()
        return self._wish
