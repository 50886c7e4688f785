"""What a job takes of a cluster that is made for it, as ``render``, ``plan`` and ``check`` all count it."""

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.kinds import Job
from orchestrator.spec.launch_plan import LaunchPlan, resolve_launch, stand_in


def plan_launch(job: Job, cluster: ClusterSpec) -> LaunchPlan:
    """Looks at folders of shards only where an objective reads annotations: their width counts in a block.

    Raises:
        UserError: job and cluster do not fit; such a folder does not open.
    """

    def facts_of(run: PretrainSpec) -> Facts:
        if not run.objective.annotations:
            return stand_in(run)
        from orchestrator.runs.prepare import read_facts  # takes seconds to import

        return stand_in(run).model_copy(update={"train": read_facts(run, cluster).train or stand_in(run).train})

    return resolve_launch(job, cluster, facts_of)
