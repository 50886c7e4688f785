"""What a run starts from, where that is another run: looked at before anything is held or started."""

import logging
import math

from orchestrator.errors import PlanError, RunNotFoundError
from orchestrator.runs.folder import open_run
from orchestrator.spec.init import StartSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.plan_differences import compare_plans
from orchestrator.storage.store import open_store
from orchestrator.training.checkpoint_folders import find_checkpoint, find_checkpoint_of
from orchestrator.training.initial_source import find_source_run
from orchestrator.training.schedule import learning_rate_factor

logger = logging.getLogger(__name__)

# What may be another: how long a run is, how its rate falls, and where its weights came from.
_OWN = {"steps", "schedule", "start", "init", "model.resolutions"}


def check_start(plan: Plan) -> None:
    """Whether what the plan starts from is there, and was trained alike; a run that has begun needs it no more.

    Raises:
        RunNotFoundError: no such run, or no complete checkpoint of that step.
        PlanError: that run has other data, another order, model or optimizer; says which.
        ModelSourceError: the run whose weights it takes has none, or such as do not fit.
    """
    starts_elsewhere = plan.init is not None or plan.start is not None
    if not starts_elsewhere or find_checkpoint(open_store(plan.run_uri, plan.s3)) is not None:
        return
    if plan.init is not None:
        find_source_run(plan.init, plan)
    if plan.start is not None:
        _check_state(plan, plan.start)


def _check_state(plan: Plan, start: StartSpec) -> None:
    try:
        store, trunk, _ = open_run(start.run, plan.s3)
        find_checkpoint_of(store, start.step)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"start: {error}. A checkpoint that others start from is written and kept with "
            f"checkpoint.keep_steps: [{start.step}] in the job of that run"
        ) from error
    if differences := compare_plans(plan, trunk, apart_from=_OWN):
        raise PlanError(
            f"start: {start.run} was trained otherwise; its values -> yours:\n  "
            + "\n  ".join(differences)
            + "\nrestore these values; to take its weights alone, use init.from"
        )
    before, now = (
        learning_rate_factor(of.schedule, of.batch.progress(start.step - 1, of.steps)) for of in (trunk, plan)
    )
    if not math.isclose(before, now, abs_tol=1e-6):
        logger.warning(
            "start: the learning rate jumps: the last step of %s has %.3g of its peak, this job's schedule has %.3g "
            "there; a cooldown is a wsd schedule whose decay begins at the start, or later",
            start.run,
            before,
            now,
        )
