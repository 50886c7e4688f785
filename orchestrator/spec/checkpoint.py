"""When a run writes checkpoints, which of them stay, and how much may go wrong in between."""

from typing import Annotated

from pydantic import Field

from orchestrator.spec.section import Section


class CheckpointSpec(Section):
    """When checkpoints are written, and which are kept. The last step always writes one."""

    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; none: by time only."""
    every_minutes: float | None = Field(default=30.0, gt=0)
    """Minutes between checkpoints; none: by steps only."""
    keep_last: int = Field(default=2, ge=1)
    """Newest complete checkpoints that are kept."""
    keep_best: bool = True
    """Also keep the checkpoint with the least held-out loss."""
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Steps after which a checkpoint is also written, and kept, such as those that other runs start from."""


class FaultsSpec(Section):
    """How much may go wrong before a run gives up."""

    max_attempts: int = Field(default=4, ge=1)
    """Attempts without a new checkpoint in between; a committed checkpoint refills them."""
    max_left_out_steps: int = Field(default=20, ge=0)
    """Steps in a row that may be left out because loss or gradient is not finite, or a spike (optimizer.guard)."""
