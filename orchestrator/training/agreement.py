"""What all ranks must decide alike: when to stop, and when a checkpoint is due by the clock.

Ranks' clocks and the driver's word differ by a step, so they are asked together, in one small collective, at
control steps. The next control step comes after about two seconds of steps, and at least at every logged step.
"""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from orchestrator.training.reports import Wish

_CONTROL_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Decision:
    """What the ranks agreed on."""

    wish: Wish
    checkpoint: bool


class Agreement:
    """Asks at control steps; between them a step costs nothing.

    Args:
        every_minutes: wall-clock interval of checkpoints; ``None``: none by the clock.
        max_interval: most steps between two control steps.
        first_step: where this attempt begins.
    """

    def __init__(
        self, every_minutes: float | None, max_interval: int, device: torch.device, first_step: int = 0
    ) -> None:
        self._every_s = every_minutes * 60 if every_minutes else float("inf")
        self._max_interval = max_interval
        self._device = device
        self._last_checkpoint_s = time.monotonic()
        self._last_control = (first_step, time.monotonic())
        self._next_control = first_step

    def is_due(self, step: int) -> bool:
        """Whether ``step`` is a control step; the same on all ranks."""
        return step >= self._next_control

    def decide(self, step: int, wish: Wish) -> Decision:
        """Agree at a control step; a collective. Of the ranks' wishes the greatest counts."""
        now_s = time.monotonic()
        last_step, last_s = self._last_control
        step_s = (now_s - last_s) / max(step - last_step, 1)
        due = now_s - self._last_checkpoint_s >= self._every_s
        votes = torch.tensor([wish, due, step_s], dtype=torch.float64, device=self._device)
        if dist.is_initialized():
            dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        agreed, checkpoint, slowest_step_s = votes.tolist()
        interval = int(_CONTROL_INTERVAL_S / max(slowest_step_s, 1e-6))
        self._next_control = step + min(max(interval, 1), self._max_interval)
        self._last_control = (step, now_s)
        return Decision(Wish(int(agreed)), bool(checkpoint))

    def checkpoint_written(self) -> None:
        """Start the checkpoint's clock anew."""
        self._last_checkpoint_s = time.monotonic()
