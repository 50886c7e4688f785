"""The learning rate over a run, as a factor on its peak; pure functions of the share of the budget that is spent.

Shares instead of steps: the same schedule fits a smoke run and a full one. Where a step stands is in
``spec/batches.py``.
"""

import math

from orchestrator.spec.optimizer import ScheduleSpec


def learning_rate_factor(schedule: ScheduleSpec, progress: float) -> float:
    """The factor, 0 to 1, after ``progress`` (0 to 1) of the budget.

    Rises linearly over ``warmup_fraction``; then ``cosine`` falls along half a wave to ``final_fraction``,
    ``constant`` stays, and ``wsd`` stays until the last ``decay_fraction``, over which it falls linearly. A warm-up
    that reaches into the decay shortens the decay.
    """
    assert 0 <= progress <= 1, f"progress is a share of the budget, not {progress}"
    warmup = schedule.warmup_fraction
    if progress < warmup:
        return progress / warmup
    match schedule.kind:
        case "constant":
            fall = 0.0
        case "cosine":
            fall = (1 - math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
        case "wsd":
            decay_start = max(warmup, 1 - schedule.decay_fraction)
            fall = max(0.0, (progress - decay_start) / (1 - decay_start))
    return 1 - (1 - schedule.final_fraction) * fall
