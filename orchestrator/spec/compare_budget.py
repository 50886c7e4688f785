"""What a comparison's budget buys of one objective, and that no setting that a search may choose gets more for it.

Budgets become steps once, with the objective's overrides, and all its runs train so many. So a search is refused where
a setting changes what a step costs in the budget's unit; such values are compared as objectives of their own.
"""

import math
from collections.abc import Callable
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.spec.compare import CompareBudgetSpec, ObjectiveEntrySpec
from orchestrator.spec.flops import training_flops
from orchestrator.spec.job import BudgetSpec, PretrainSpec
from orchestrator.spec.objective import CatlipSpec, ConceptsSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve_batch import resolve_batches

PlanOf = Callable[[PretrainSpec], Plan]

PROBE_STEPS = 1000
"""Of the job whose FLOPs are counted; phases of other image sizes are shares of the budget."""

_VOCABULARY_KEYS = {f"objective.{key}" for key in (*ConceptsSpec.model_fields, "vocabulary")}


def resolve_budget(
    budget: CompareBudgetSpec, label: str, job: PretrainSpec, plan_of: PlanOf, num_workers: int, step_s: float | None
) -> BudgetSpec | None:
    """Steps, or samples where those of a step differ; none: only a calibration can tell.

    Args:
        job: the objective's, of ``PROBE_STEPS`` steps.
        step_s: seconds of a step, as measured.

    Raises:
        PlanError: less than one step; seconds where steps differ.
    """
    in_samples = bool(resolve_batches(job).phases) and budget.steps is None
    if budget.flops is not None:
        plan = plan_of(job)
        price = training_flops(plan) * (1 if in_samples else plan.batch.global_size)
        said = f"one {'sample' if in_samples else 'step'} takes {price:.3g} FLOPs"
        number = _at_least_one(budget.flops / price, label, said)
        return BudgetSpec(samples=number) if in_samples else BudgetSpec(steps=number)
    if budget.seconds:
        _check_equal_steps(label, in_samples)
        if step_s is None:
            return None
        seconds = budget.train_seconds or (budget.device_seconds or 0) / num_workers
        return BudgetSpec(steps=_at_least_one(seconds / step_s, label, f"one step takes {step_s:.3g} s"))
    own = BudgetSpec(steps=budget.steps, samples=budget.samples, epochs=budget.epochs)
    plan = plan_of(job.model_copy(update={"budget": own}))
    return BudgetSpec(samples=plan.samples) if in_samples else BudgetSpec(steps=plan.steps)


def part_of(budget: BudgetSpec, fraction: float) -> BudgetSpec:
    """That share of a budget in steps or samples."""
    return BudgetSpec(**{key: max(1, round(number * fraction)) for key, number in budget if number is not None})


def check_search_budgets(
    budget: CompareBudgetSpec,
    entry: ObjectiveEntrySpec,
    job_of: Callable[[dict[str, Any]], PretrainSpec],
    plan_of: PlanOf,
) -> None:
    """Every end of the search space costs what the objective's overrides do.

    Raises:
        PlanError: a key that changes it.
    """
    base = _prices(budget, plan_of(job_of(entry.overrides))) if entry.search else {}
    for key, domain in entry.search.items():
        for value in domain.ends:
            prices = _prices(budget, plan_of(job_of({**entry.overrides, key: value})))
            changed = [unit for unit, price in prices.items() if price != base[unit]]
            if "FLOPs" in base and isinstance(entry.objective, CatlipSpec) and key in _VOCABULARY_KEYS:
                changed = ["FLOPs"]  # of the classifier: its concepts are counted when the trial runs
            if changed:
                raise PlanError(
                    f"objective '{entry.label}' searches {key}, which changes the {changed[0]} of a step: with "
                    f"{value!r} the same steps would be another budget; leave it out, or compare its values as "
                    f"objectives of their own ('overrides'), each of which gets its own steps for the budget"
                )


def _prices(budget: CompareBudgetSpec, plan: Plan) -> dict[str, Any]:
    """What must be alike, by its name: samples always, since curves and rungs count them; and the budget's unit."""
    prices: dict[str, Any] = {"samples": (plan.batch.global_size, plan.batch.phases)}
    if budget.flops is not None or budget.seconds:
        prices["FLOPs"] = training_flops(plan, recomputed=budget.seconds)
    if budget.seconds:
        prices["micro batches"] = plan.batch.micro_size
    return prices


def _at_least_one(steps: float, label: str, price: str) -> int:
    if steps < 1:
        raise PlanError(f"budget: less than one step of objective '{label}' ({price}); raise it")
    return math.floor(steps)


def _check_equal_steps(label: str, in_samples: bool) -> None:
    if in_samples:
        raise PlanError(
            f"budget: seconds become steps by the time of one, but those of objective '{label}' have several sizes "
            f"(global_sizes of model.resolutions); give the budget in samples, epochs, steps or flops"
        )
