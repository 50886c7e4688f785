"""What a run has spent on its weights so far: what its scores are drawn against."""

from collections.abc import Mapping
from typing import Any

from orchestrator.spec.flops import training_flops
from orchestrator.spec.plan import Plan
from orchestrator.tracking import metrics

_SECONDS = "train_s"


class Spent:
    """Samples, seconds and FLOPs up to a step. Seconds of attempts that were lost do not count."""

    def __init__(self, plan: Plan) -> None:
        self._batch, self._first_step = plan.batch, plan.first_step
        self._flops_per_sample = training_flops(plan)
        self._seconds = 0.0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state; one of an earlier version does not say its seconds."""
        self._seconds = float(state.get(_SECONDS, 0.0))

    def state(self, step: int) -> dict[str, float]:
        """For a checkpoint."""
        return {"samples_seen": self._batch.start(step), _SECONDS: self._seconds}

    def add(self, seconds: float) -> None:
        """Steps that were just done."""
        self._seconds += seconds

    def own_samples(self, step: int) -> int:
        """Those of a run that it is branched off left out."""
        return self._batch.start(step) - self._batch.start(self._first_step)

    def metrics(self, step: int) -> dict[str, float]:
        """At a step, of all before it; of a run that is branched off another one, that one's too."""
        samples = self._batch.start(step)
        return {
            metrics.STEPS: float(step),
            metrics.SAMPLES_SEEN: float(samples),
            metrics.SECONDS: self._seconds,
            metrics.FLOPS: samples * self._flops_per_sample,
        }
