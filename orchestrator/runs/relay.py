"""A trial as Ray Tune sees it: an actor that passes on what the driver says of it, and holds no CPU.

The driver runs a trial as it runs any pretrain job; Tune only decides which is next and which has to end. So the
actor imports Tune and nothing else: torch and Ray Train would cost each of them seconds.
"""

import asyncio
from collections import defaultdict
from typing import Any

import ray
from ray import tune


class Board:
    """Where the driver pins what Tune should hear; an actor, asked by all relays at once."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[dict[str, Any] | None]] = defaultdict(asyncio.Queue)

    async def put(self, run: str, report: dict[str, Any] | None) -> None:
        """Tell Tune of a trial; ``None``: it has ended."""
        self._queues[run].put_nowait(report)

    async def next(self, run: str) -> dict[str, Any] | None:
        """The next report of a trial, waited for."""
        return await self._queues[run].get()


def relay(config: dict[str, Any], board: Any) -> None:
    """Report to Tune what the driver pins for ``config["run"]``, until that ends."""
    while (report := ray.get(board.next.remote(config["run"]))) is not None:
        tune.report(report)
