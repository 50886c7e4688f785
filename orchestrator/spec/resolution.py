"""At which size a step's images are read: a pure function of the plan and the step."""

import hashlib
from itertools import chain

from orchestrator.spec.section import Section


class SizePhase(Section):
    """Steps up to ``stop_step`` that the phase before does not have."""

    stop_step: int
    image_sizes: tuple[int, ...]


class ImageSizes(Section):
    """The sizes of a whole run; picklable, so that read tasks know it."""

    final: int
    """Pixels a side of the model itself, of evaluation and of the steps after the last phase."""
    phases: tuple[SizePhase, ...] = ()
    seed: int = 0

    @property
    def all(self) -> tuple[int, ...]:
        """Every size that may come, rising."""
        return tuple(sorted({self.final, *chain.from_iterable(phase.image_sizes for phase in self.phases)}))

    def at(self, step: int) -> int:
        """Pixels a side in ``step`` (from 0); one of several is drawn from (seed, step)."""
        for phase in self.phases:
            if step < phase.stop_step:
                digest = hashlib.blake2b(f"image size {self.seed} {step}".encode(), digest_size=8).digest()
                return phase.image_sizes[int.from_bytes(digest) * len(phase.image_sizes) >> 64]
        return self.final
