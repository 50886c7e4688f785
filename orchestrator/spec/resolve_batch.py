"""The batch's part of a Plan: global batches of the whole run, over workers and micro batches, and the steps they make.

What does not divide is refused with what does.
"""

import math
from collections.abc import Sequence

from orchestrator.errors import PlanError
from orchestrator.spec.batches import Batches, BatchPhase
from orchestrator.spec.job import PretrainSpec, ShardsSpec
from orchestrator.spec.plan import BatchPlan, SourcePlan


def resolve_batch(job: PretrainSpec, num_workers: int, num_samples: int) -> tuple[BatchPlan, int]:
    """And the optimizer steps of the run.

    Args:
        num_samples: what an epoch of the budget counts.

    Raises:
        PlanError: a global batch is not made of micro batches on all workers.
    """
    worker_size = job.batch.global_size // num_workers
    micro_size = job.batch.micro_size or common_size(job) // num_workers
    if worker_size % micro_size:
        divisors = [size for size in range(1, worker_size + 1) if worker_size % size == 0]
        near = min(divisors, key=lambda size: abs(size - micro_size))
        raise PlanError(
            f"batch.micro_size {micro_size} does not divide the worker batch of {worker_size} "
            f"({job.batch.global_size} over {num_workers} workers); the nearest that does is {near}"
        )
    unit = micro_size * num_workers
    for key, size in job.global_sizes():
        if size % unit:
            raise PlanError(
                f"{key} {size:,} is not made of micro batches of {micro_size:,} on {num_workers} workers; "
                f"use {nearest_multiples(size, unit)}, or another batch.micro_size"
            )
    batches = resolve_batches(job, num_samples)
    batch = BatchPlan(
        **dict(batches), worker_size=worker_size, micro_size=micro_size, num_micro=worker_size // micro_size
    )
    if job.budget.steps is not None:
        return batch, job.budget.steps
    return batch, max(1, batch.steps_to(_budget_samples(job, num_samples)))


def resolve_batches(job: PretrainSpec, num_samples: int = 0) -> Batches:
    """The global batches of a job; ``num_samples`` counts only where its budget is in epochs."""
    equal = Batches(global_size=job.batch.global_size, seed=job.seed.data)
    phases = job.model.resolutions
    if not any(phase.global_sizes for phase in phases):
        return equal
    sizes = [phase.global_sizes or (job.batch.global_size,) * len(phase.image_sizes) for phase in phases]
    samples = _budget_samples(job, num_samples)
    stops = [math.ceil(phase.until_fraction * samples) for phase in phases]
    if job.budget.steps is not None and phases[-1].until_fraction == 1:
        stops[-1] = job.budget.steps * max(max(drawn) for drawn in sizes)  # to the end, whatever is drawn
    course = tuple(BatchPhase(stop_sample=stop, global_sizes=drawn) for stop, drawn in zip(stops, sizes, strict=True))
    return equal.model_copy(update={"phases": course})


def common_size(job: PretrainSpec) -> int:
    """The greatest number of samples that all global batches are made of."""
    return math.gcd(*(size for _, size in job.global_sizes()))


def nearest_multiples(size: int, unit: int) -> str:
    """The multiples of ``unit`` around a size that is none, in words."""
    lower = size // unit * unit
    return f"{lower:,} or {lower + unit:,}" if lower else f"{unit:,}"


def resolve_window(job: PretrainSpec, sources: Sequence[SourcePlan]) -> int:
    """The window nearest above the wish that is made of whole global batches.

    Shorter where a single source has fewer samples: the epochs that a window holds are spread over each of its batches,
    which would then have samples twice.
    """
    wish = job.data.shuffle_window if isinstance(job.data, ShardsSpec) else job.batch.global_size
    unit = common_size(job)
    window = math.ceil(wish / unit) * unit
    if len(sources) == 1 and sources[0].shards.digest and not sources[0].with_replacement:
        window = min(window, max(sources[0].shards.num_usable // unit, 1) * unit)
    return window


def _budget_samples(job: PretrainSpec, num_samples: int) -> int:
    """What the shares of the budget are of; where it is in steps, what they take if all sizes are drawn equally."""
    budget = job.budget
    if budget.samples is not None:
        return budget.samples
    if budget.steps is None:
        return math.ceil((budget.epochs or 0) * num_samples)
    steps_per_sample, start = 0.0, 0.0
    for phase in job.model.resolutions:
        drawn = phase.global_sizes or (job.batch.global_size,)
        steps_per_sample += (phase.until_fraction - start) * len(drawn) / sum(drawn)
        start = phase.until_fraction
    return round(budget.steps / (steps_per_sample + (1 - start) / job.batch.global_size))
