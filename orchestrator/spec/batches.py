"""How many samples each step takes, and from where on: a pure function of the plan and the step, without communication.

Steps take the samples of the order one behind the other, so a step begins where the sizes before it add up to. Where
all steps are alike that is a product; where phases have sizes of their own, sums that each process adds up once.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from orchestrator.spec.resolution import drawn_sizes
from orchestrator.spec.section import Section


class BatchPhase(Section):
    """Steps that begin before ``stop_sample`` and that the phase before does not have."""

    stop_sample: int
    global_sizes: tuple[int, ...]
    """One for each of the phase's image sizes; a step draws both together."""


class Batches(Section):
    """The global batches of a whole run; picklable, so that read tasks know them."""

    global_size: int
    """Samples of one step over all workers, after the last phase and where there is none."""
    phases: tuple[BatchPhase, ...] = ()
    """Parts of the run with sizes of their own."""
    seed: int = 0
    """Of the sizes that are drawn."""

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Every size that may come, rising."""
        return tuple(sorted({self.global_size, *chain.from_iterable(phase.global_sizes for phase in self.phases)}))

    @property
    def num_phased_steps(self) -> int:
        """Steps of all phases; those behind them have ``global_size`` samples."""
        return len(_phase_starts(self)) - 1

    def size_at(self, step: int) -> int:
        """Samples of ``step`` (from 0) over all workers."""
        return self.start(step + 1) - self.start(step)

    def start(self, step: int) -> int:
        """The position at which ``step`` begins, which is the number of samples before it."""
        starts = _phase_starts(self)
        last = len(starts) - 1
        return starts[min(step, last)] + max(step - last, 0) * self.global_size

    def step_at(self, position: int) -> int:
        """The step that takes the sample at ``position``."""
        starts = _phase_starts(self)
        behind = (position - starts[-1]) // self.global_size
        return len(starts) - 1 + behind if behind >= 0 else bisect_right(starts, position) - 1

    def steps_to(self, position: int) -> int:
        """How many steps it takes until all samples before ``position`` were taken."""
        return self.step_at(position - 1) + 1 if position > 0 else 0

    def mean_size(self, first_step: int, stop_step: int) -> float:
        """Samples of a step, mean over steps [first_step, stop_step); 0 of none."""
        return (self.start(stop_step) - self.start(first_step)) / max(1, stop_step - first_step)

    def progress(self, step: int, num_steps: int) -> float:
        """The share of the samples of ``num_steps`` at ``step``: the middle of what the step itself takes.

        So neither the first step of a warm-up nor the last of a decay has the rate zero and does nothing.
        """
        if not self.phases:
            return (step + 0.5) / num_steps
        return (self.start(step) + self.start(step + 1)) / (2 * self.start(num_steps))

    def steps_of(self, fraction: float, num_steps: int) -> int:
        """How many steps take the first ``fraction`` of the samples of ``num_steps``, to a step."""
        if not self.phases:
            return round(fraction * num_steps)
        return self.step_at(round(fraction * self.start(num_steps)))


@lru_cache(maxsize=8)
def _phase_starts(batches: Batches) -> Sequence[int]:
    """Where the steps of all phases begin, and the first one after them."""
    starts, position = array("q", [0]), 0
    for phase in batches.phases:
        drawn = drawn_sizes(phase.global_sizes, batches.seed, first_step=len(starts) - 1)
        while position < phase.stop_sample:
            position += next(drawn)
            starts.append(position)
    return starts
