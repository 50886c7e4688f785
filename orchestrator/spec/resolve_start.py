"""What a run starts from, and what it keeps for others to start from."""

from orchestrator.errors import PlanError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.init import InitSpec, StartSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import join_uri


def resolve_init(job: PretrainSpec, cluster: ClusterSpec) -> InitSpec | None:
    """A run's name becomes its URI; a path or the name of a hub's repository has a slash."""
    if job.init is None or "/" in job.init.from_:
        return job.init
    return job.init.model_copy(update={"from_": join_uri(cluster.storage.runs, job.init.from_)})


def resolve_start(job: PretrainSpec, cluster: ClusterSpec, steps: int) -> StartSpec | None:
    """The same for what ``start`` names.

    Raises:
        PlanError: the budget has ended by then.
    """
    if job.start is None:
        return None
    if job.start.step >= steps:
        raise PlanError(
            f"start.step is {job.start.step:,}, but the budget ends after {steps:,} steps, those before the start "
            f"included; raise 'budget', or start earlier"
        )
    return job.start.model_copy(update={"run": join_uri(cluster.storage.runs, job.start.run)})


def check_keep_steps(job: PretrainSpec, steps: int) -> None:
    """Raises PlanError for a checkpoint that the run would never write."""
    if (beyond := max(job.checkpoint.keep_steps, default=0)) > steps:
        raise PlanError(
            f"checkpoint.keep_steps names step {beyond:,}, but the run ends after {steps:,}; lower it, or raise "
            f"'budget'"
        )
