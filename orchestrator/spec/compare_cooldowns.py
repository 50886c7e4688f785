"""Cooldowns: short runs that end a replicate's schedule early, each for the point of its curve at one rung.

A cooldown is what the replicate would be with the rung's budget: the same ``wsd`` schedule over fewer steps. Up to
where its decay begins it is the replicate itself, so it starts from there and trains the decay alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.errors import PlanError
from orchestrator.spec.init import StartSpec
from orchestrator.spec.job import BudgetSpec, PretrainSpec
from orchestrator.spec.optimizer import ScheduleSpec

_LONGEST_NAME = 63  # of a job (spec/job.py)


class Branch(NamedTuple):
    """Where a cooldown leaves the replicate, and where it ends: steps of the budget."""

    start: int
    end: int


def resolve_branches(label: str, schedule: ScheduleSpec, steps: int, rungs: Sequence[float]) -> list[Branch]:
    """One for each rung of a run of ``steps`` steps; at least one step each.

    Raises:
        PlanError: a rung that would leave the run before its rate is constant, or that shares its step with the next.
    """
    warmup, branches = math.ceil(schedule.warmup_fraction * steps), list[Branch]()
    for rung in rungs:
        end = round(rung * steps)
        start = min(math.floor(end * (1 - schedule.decay_fraction) + 1e-9), end - 1)
        if start < max(warmup, 1):
            raise PlanError(
                f"rungs: the cooldown of objective '{label}' that ends at {rung:g} of {steps:,} steps would begin "
                f"after {max(start, 0):,}, but the rate is constant from step {max(warmup, 1):,} on; raise 'budget', "
                f"or set 'rungs' (an empty list: none)"
            )
        branches.append(Branch(start, end))
    ends = [*(branch.end for branch in branches), steps]
    if branches and len(set(ends)) < len(ends):
        raise PlanError(
            f"rungs: those of objective '{label}' end after {ends} steps; wanted each after others: raise 'budget', or "
            f"name fewer rungs"
        )
    return branches


def cooldown_job(trunk: PretrainSpec, branch: Branch) -> PretrainSpec:
    """The job of a cooldown of a replicate's.

    Raises:
        PlanError: its name becomes too long.
    """
    name = f"{trunk.name}-cooldown-{branch.end}"
    if len(name) > _LONGEST_NAME:
        raise PlanError(f"a run would be called {name}, which is too long; shorten 'name' or the label")
    return trunk.model_copy(
        update={
            "name": name,
            "budget": BudgetSpec(steps=branch.end),
            "start": StartSpec(run=trunk.name, step=branch.start),
            "evaluation": trunk.evaluation.model_copy(update={"every_steps": None}),
            "checkpoint": trunk.checkpoint.model_copy(update={"keep_steps": ()}),
        }
    )
