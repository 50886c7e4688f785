"""What a run starts from: weights, or the whole state of another run."""

from typing import Literal

from pydantic import ConfigDict, Field

from orchestrator.spec.optimizer import Tower
from orchestrator.spec.section import Section


class InitSpec(Section):
    """Weights that exist, instead of random ones. A run that goes on from its own checkpoint does not read them."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: str = Field(alias="from", min_length=1)
    """A run's name or URI (trained, imported or averaged: its last checkpoint), or weights of another program: a file
    or folder by its absolute path on every node, or a name on the Hugging Face hub."""
    weights: Literal["raw", "ema"] = "raw"
    """Of a run: the trained weights, or their moving average."""
    towers: tuple[Tower, ...] | None = Field(default=None, min_length=1)
    """Which towers start from there, and nothing else; none: all that both have, and of the same objective also what
    lies in no tower (scalars; a classifier by its concepts)."""


class StartSpec(Section):
    """The state of another run: weights, moments, average, and the place in the order of the samples.

    Both runs have the same data, seeds, batch, model, objective and optimizer; budget and schedule are their own.
    """

    run: str = Field(min_length=1)
    """Its name or URI."""
    step: int = Field(ge=1)
    """Of its checkpoint, and the first that is trained here (counted from 0); ``checkpoint.keep_steps`` keeps one."""
