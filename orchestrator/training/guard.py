"""Looks at each step's loss and gradient norms before the update: what is not finite or jumps is left out.

Every rank judges the same numbers (means and norms over all ranks), so all decide alike without asking. The state is
small and goes into each checkpoint: a resume has the same medians, and a run that keeps failing is still seen to.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from orchestrator.errors import DivergedError
from orchestrator.spec.optimizer import GuardSpec

logger = logging.getLogger(__name__)


class StepGuard:
    """Judges steps in order; counts what it found over all attempts of a run."""

    def __init__(self, spec: GuardSpec, is_speaker: bool = True) -> None:
        """``is_speaker``: whether this rank's log tells of it."""
        self._spec, self._is_speaker = spec, is_speaker
        self._losses: deque[float] = deque(maxlen=spec.window)
        self._norms: deque[float] = deque(maxlen=spec.window)
        self.num_nonfinite, self.num_spikes = 0, 0
        """Steps, each in one of them; a spike is counted whether it was left out or taken."""
        self.left_out_in_a_row = 0
        self._last_finding = ""

    def allows(self, step: int, loss: float, norms: Mapping[str, float]) -> bool:
        """Whether to take step ``step`` (from 1). ``norms``: of the gradient, by tower, and their ``total``."""
        nonfinite = _find_nonfinite(loss, norms)
        spike = "" if nonfinite else self._find_spike(loss, norms["total"])
        self.num_nonfinite += bool(nonfinite)
        self.num_spikes += bool(spike)
        is_allowed = not nonfinite and (not spike or self._spec.on_spike == "warn")
        self.left_out_in_a_row = 0 if is_allowed else self.left_out_in_a_row + 1
        if is_allowed:
            self._losses.append(loss)
            self._norms.append(norms["total"])
        if finding := nonfinite or spike:
            self._last_finding = f"step {step:,}: {finding}"
            if self._is_speaker:
                logger.warning("step %s%s: %s", f"{step:,}", "" if is_allowed else " left out", finding)
        return is_allowed

    def check(self, max_left_out: int) -> None:
        """Raises DivergedError once more than ``max_left_out`` steps in a row were left out."""
        if self.left_out_in_a_row > max_left_out:
            raise DivergedError(
                f"{self.left_out_in_a_row} steps in a row were left out (faults.max_left_out_steps is {max_left_out}), "
                f"the last one {self._last_finding}; lower optimizer.learning_rate, lengthen "
                f"schedule.warmup_fraction, set a smaller optimizer.gradient_clip or wider factors in optimizer.guard"
            )

    def state(self) -> dict[str, Any]:
        """What a resume needs, as JSON holds it."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "num_nonfinite": self.num_nonfinite,
            "num_spikes": self.num_spikes,
            "left_out_in_a_row": self.left_out_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what ``state`` gave; nothing at all for a checkpoint without one."""
        self._losses.extend(state.get("losses", ()))
        self._norms.extend(state.get("norms", ()))
        self.num_nonfinite = state.get("num_nonfinite", 0)
        self.num_spikes = state.get("num_spikes", 0)
        self.left_out_in_a_row = state.get("left_out_in_a_row", 0)

    def _find_spike(self, loss: float, norm: float) -> str:
        for name, value, past, factor in (
            ("loss", loss, self._losses, self._spec.loss_factor),
            ("gradient norm", norm, self._norms, self._spec.norm_factor),
        ):
            if factor is not None and len(past) == self._spec.window and value > factor * (usual := median(past)):
                return (
                    f"the {name} is {value:.4g}, more than {factor:g} times the median of the last "
                    f"{self._spec.window} steps, {usual:.4g}"
                )
        return ""


def _find_nonfinite(loss: float, norms: Mapping[str, float]) -> str:
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    towers = [name for name, norm in norms.items() if name != "total" and not math.isfinite(norm)]
    if towers:
        return f"the gradient of {', '.join(towers)} is not finite"
    return "" if math.isfinite(norms["total"]) else "the gradient is too long for fp32"
