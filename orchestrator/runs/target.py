"""Under what a run is recorded: its name, its key, and the tags that say what it is."""

from orchestrator.spec.compare_plan import ComparePlan
from orchestrator.spec.plan import Plan
from orchestrator.tracking.tracker import TAG_OBJECTIVE, RunTarget

TAG_PLAN = "orchestrator.plan"


def comparison_target(plan: ComparePlan, key: str) -> RunTarget:
    """The record of a comparison, above those of its runs; ``key`` is the one in its folder."""
    tags = {TAG_OBJECTIVE: ", ".join(plan.labels), TAG_PLAN: plan.digest}
    return RunTarget(plan.tracking.uri, plan.tracking.experiment, plan.name, key, tags)


def run_target(plan: Plan, key: str, parent_key: str | None = None) -> RunTarget:
    """The record of a run; ``key`` is the one in its folder, ``parent_key`` that of the comparison it belongs to."""
    tags = {TAG_OBJECTIVE: plan.objective.name, TAG_PLAN: plan.identity_digest}
    return RunTarget(plan.tracking.uri, plan.tracking.experiment, plan.name, key, tags, parent_key)
