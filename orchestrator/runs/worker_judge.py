"""Judge checkpoints on a cluster's workers: each rank reads and encodes a share, and fits a share of the probes."""

import logging
from collections.abc import Callable
from typing import Any

from orchestrator.errors import WorkerLostError
from orchestrator.evaluation.results import ProbeResult
from orchestrator.runs.failures import judge_failure
from orchestrator.runs.session import ray_session
from orchestrator.runs.worker_group import WorkerGroup
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import MachineFacts
from orchestrator.spec.plan import Plan, WorkersPlan
from orchestrator.storage.store import Store
from orchestrator.training.checkpoint_folders import StoredCheckpoint
from orchestrator.training.entry import judge_on_worker
from orchestrator.training.reports import Weights

logger = logging.getLogger(__name__)

_POLL_S = 0.2


class WorkerJudge:
    """Implements ``runs.evaluate.Judge``; workers are started for each checkpoint, and again where one is lost."""

    def __init__(
        self, cluster: ClusterSpec, machine: MachineFacts, workers: WorkersPlan, heed: Callable[[], None]
    ) -> None:
        """``heed``: called several times a second; what it raises ends the work."""
        self._cluster = cluster
        self._machine = machine
        self._workers = workers
        self._heed = heed

    def __call__(self, plan: Plan, _store: Store, stored: StoredCheckpoint, weights: Weights) -> list[ProbeResult]:
        """Judge a checkpoint of the plan's run.

        Raises:
            OrchestratorError: what is wrong with checkpoint or sets; WorkerLostError: ``faults.max_attempts`` in vain.
        """
        own = plan.model_copy(update={"workers": self._workers})
        config = {"plan": own.model_dump_json(), "step": stored.record.step, "weights": weights}
        last: Exception | None = None
        with ray_session(self._cluster, self._machine):
            for number in range(1, plan.faults.max_attempts + 1):
                group = WorkerGroup(judge_on_worker, config, self._workers, f"judge-{plan.name}-{number}")
                found = self._watch(group)
                if group.failure is None:
                    return [ProbeResult.from_dict(record) for record in found]
                verdict = judge_failure(group.failure)
                if not verdict.retry:
                    raise verdict.error from group.failure
                logger.warning("judging %s, attempt %d ended: %s", plan.name, number, verdict.error)
                last = verdict.error
        raise WorkerLostError(f"{plan.faults.max_attempts} attempts to judge (faults.max_attempts); the last: {last}")

    def _watch(self, group: WorkerGroup) -> list[dict[str, Any]]:
        group.start()
        while not group.wait(_POLL_S):
            self._heed()
        group.forget()
        found: list[dict[str, Any]] = group.result
        return found
