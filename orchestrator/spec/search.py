"""Search spaces, and what is tried of them: settings by dotted key, a pure function of the seed."""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from orchestrator.spec.section import Section

MAX_TRIALS = 1000
"""Of one objective."""


class DomainSpec(Section):
    """Where a value is looked for; exactly one of the three."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=2)
    """One of these."""
    uniform: tuple[float, float] | None = None
    """Between these."""
    log_uniform: tuple[float, float] | None = None
    """Between these, each factor as likely as the next."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "DomainSpec":
        given = [key for key in ("choice", "uniform", "log_uniform") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"wanted exactly one of choice, uniform, log_uniform; given: {given or 'none'}")
        low, high = self.uniform or self.log_uniform or (1.0, 2.0)
        if low >= high or (self.log_uniform and low <= 0):
            raise ValueError(f"{given[0]} is {low:g} to {high:g}; wanted rising ends, above 0 for log_uniform")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices, or the two ends."""
        return self.choice or self.uniform or self.log_uniform or ()

    @property
    def inner(self) -> float | None:
        """A number between the ends, as a draw has it: with a fraction; none of choices."""
        if self.choice is not None:
            return None
        low, high = self.ends
        return low + (high - low) / math.pi

    def draw(self, random: random.Random) -> Any:
        """One value."""
        if self.choice is not None:
            return random.choice(self.choice)
        if self.uniform is not None:
            return random.uniform(*self.uniform)
        low, high = self.ends
        return math.exp(random.uniform(math.log(low), math.log(high)))


SearchSpace = Mapping[str, DomainSpec]


class SearchSpec(Section):
    """Trials that look for settings before the runs that count, judged on validation rows, with a seed of their own."""

    trials: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    """Of every objective with a search space; none: all combinations of a grid."""
    algorithm: Literal["random", "grid", "optuna"] = "random"
    """``grid``: every combination of the choices; ``optuna``: what the trials before it suggest (its TPE sampler)."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """What ends trials early, by comparing those of one objective at the same number of samples: asynchronous
    successive halving (arXiv 1810.05934), or the running median (Vizier's rule)."""
    first_rung: float = Field(default=0.25, gt=0, lt=1)
    """The share of a trial's budget after which it is judged first, and then again after each such share."""
    reduction_factor: float = Field(default=2.0, gt=1)
    """``asha``: one in so many goes on from a rung; rungs grow by the same factor."""
    budget_fraction: float = Field(default=1.0, gt=0, le=1)
    """The share of the comparison's budget that a trial gets, its schedule included."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of what is drawn."""

    @model_validator(mode="after")
    def _countable(self) -> "SearchSpec":
        if (self.trials is None) != (self.algorithm == "grid"):
            raise ValueError("trials says how many are tried; a grid has as many as its choices combine to")
        return self

    @property
    def rungs(self) -> tuple[float, ...]:
        """Shares of a budget at which trials are ended early, rising; none where no scheduler ends them."""
        if self.scheduler == "none":
            return ()
        number = math.ceil(-math.log(self.first_rung, self.reduction_factor) - 1e-9)
        return tuple(self.first_rung * self.reduction_factor**power for power in range(number))

    def num_trials(self, space: SearchSpace) -> int:
        """How many settings of ``space`` are tried."""
        return self.trials or math.prod(len(domain.ends) for domain in space.values())

    def settings(self, space: SearchSpace, label: str) -> list[dict[str, Any]]:
        """What is tried, in order; nothing yet where each trial depends on those before it."""
        if self.algorithm == "grid":
            return [
                dict(zip(space, values, strict=True))
                for values in itertools.product(*(domain.ends for domain in space.values()))
            ]
        if self.algorithm == "optuna":
            return [{} for _ in range(self.trials or 0)]
        draws = random.Random(f"{self.seed} {label}")
        return [{key: domain.draw(draws) for key, domain in space.items()} for _ in range(self.trials or 0)]
