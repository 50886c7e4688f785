"""Under what a run is recorded: its name, its key, and the tags that say what it is."""

from orchestrator.spec.plan import Plan
from orchestrator.tracking.tracker import TAG_OBJECTIVE, RunTarget

TAG_PLAN = "orchestrator.plan"


def run_target(plan: Plan, key: str, parent_key: str | None = None) -> RunTarget:
    """The record of a run; ``key`` is the one in its folder, ``parent_key`` that of the comparison it belongs to."""
    tags = {TAG_OBJECTIVE: plan.objective.name, TAG_PLAN: plan.identity_digest}
    return RunTarget(plan.tracking.uri, plan.tracking.experiment, plan.name, key, tags, parent_key)
