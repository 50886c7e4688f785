"""At which size a step's images are read: a pure function of the plan and the step."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain, count, repeat
from typing import Annotated

from pydantic import Field, model_validator

from orchestrator.spec.section import Section


class ResolutionPhase(Section):
    """A first or middle part of the run at other image sizes than the model's own."""

    until_fraction: float = Field(gt=0, le=1)
    """The share of the budget, in samples, at which it ends; phases rise."""
    image_sizes: tuple[Annotated[int, Field(ge=8, le=2048)], ...] = Field(min_length=1)
    """Pixels a side; of several, one is drawn for each step, the same on all workers."""
    global_sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Samples of a step over all workers, one for each of ``image_sizes``; none: ``batch.global_size``. The learning
    rate stays as it is."""

    @model_validator(mode="after")
    def _one_for_each(self) -> "ResolutionPhase":
        if self.global_sizes and len(self.global_sizes) != len(self.image_sizes):
            raise ValueError(
                f"global_sizes has {len(self.global_sizes)} for {len(self.image_sizes)} image_sizes; "
                f"wanted one for each, or none"
            )
        return self


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
                return next(drawn_sizes(phase.image_sizes, self.seed, step))
        return self.final


def drawn_sizes(sizes: Sequence[int], seed: int, first_step: int) -> Iterator[int]:
    """One of ``sizes`` for each step from ``first_step`` on, without end, by (seed, step) alone.

    Of as many sizes the same place is drawn: an image size and the global batch that belongs to it.
    """
    if len(sizes) == 1:
        yield from repeat(sizes[0])
    begun = hashlib.blake2b(b"image size %d " % seed, digest_size=8)  # a run may add up a million steps
    for step in count(first_step):
        digest = begun.copy()
        digest.update(b"%d" % step)
        yield sizes[int.from_bytes(digest.digest()) * len(sizes) >> 64]
