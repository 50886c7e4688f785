"""How weights are updated: the optimizer, what it leaves alone, the learning rate's course, the average."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.section import Section

Tower = Literal["vision", "text"]


class FreezeSpec(Section):
    """Part of a tower that keeps its weights, for the whole run or at its start."""

    layers: int | None = Field(default=None, ge=0)
    """Frozen are the embeddings and this many layers from the bottom; none: the whole tower."""
    until_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of the budget after which it is trained too; none: never, which also spares its backward pass."""


class GuardSpec(Section):
    """What happens when a step looks wrong: it is left out, by all workers together, before any weight changes."""

    norm_factor: float | None = Field(default=None, gt=1)
    """A gradient norm of more than this many times the running median is a spike; none: norms are not watched."""
    loss_factor: float | None = Field(default=None, gt=1)
    """The same for the loss; none: it is not watched."""
    window: int = Field(default=100, ge=2, le=10_000)
    """Steps whose median counts; before as many were taken, nothing is a spike."""
    on_spike: Literal["skip", "warn"] = "skip"
    """Leave the step out, or count it and say so."""


class OptimizerSpec(Section):
    """AdamW; norms, biases and scalars are never decayed."""

    learning_rate: float = Field(gt=0)
    """The peak, after the warm-up."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    """Decay of the first and the second moment (the CLIP paper's for vision transformers)."""
    eps: float = Field(default=1e-6, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.2, ge=0)
    """Decoupled decay of matrices, times the learning rate."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Greatest norm of the whole gradient; 0 turns clipping off."""
    layer_decay: dict[Tower, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """Of a tower: the learning rate falls by this factor with each layer from the top down; not named: 1."""
    freeze: dict[Tower, FreezeSpec] = Field(default_factory=dict)
    """What of which tower keeps its weights; a tower that is not named is trained whole."""
    guard: GuardSpec = GuardSpec()
    """Looks at loss and gradient before each update."""


class ScheduleSpec(Section):
    """The learning rate as a function of the share of the budget that is spent."""

    kind: Literal["cosine", "constant", "wsd"] = "cosine"
    """``wsd``: warm-up, stable, linear decay."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """The share of the budget, at its start, over which the rate rises from zero."""
    decay_fraction: float = Field(default=0.2, ge=1e-6, le=1)
    """``wsd`` only: the share of the budget, at its end, over which the rate falls."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Where the rate ends, as a share of its peak."""


class EmaSpec(Section):
    """An exponential moving average of the fp32 master weights."""

    decay: float = Field(default=0.9995, gt=0, lt=1)
    """Greatest decay; warmed up as min(decay, (1 + n) / (10 + n)) at update n."""
