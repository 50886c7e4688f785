"""Judge a run's checkpoint again, in this process: no Ray, no workers."""

import hashlib
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.env import apply_quiet_env
from orchestrator.errors import PlanError
from orchestrator.evaluation.predictions import write_predictions
from orchestrator.evaluation.results import ProbeResult
from orchestrator.runs.folder import open_run, tracking_folder
from orchestrator.runs.inputs import evaluation_digests
from orchestrator.runs.prepare import ensure_evaluation_sets
from orchestrator.runs.recorder import record_evaluation
from orchestrator.runs.target import run_target
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.job import EvaluateSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import Plan
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.training.checkpoint_folders import CheckpointChoice, find_checkpoint_of
from orchestrator.training.judge import judge_plan, judged_weights
from orchestrator.training.parts import block_format, build_plan_objective
from orchestrator.training.reports import Weights
from orchestrator.training.stored_tensors import load_weights

logger = logging.getLogger(__name__)


def evaluate_run(
    run_uri: str,
    cluster: ClusterSpec,
    *,
    evaluation: EvaluationSpec | None = None,
    weights: Weights = "raw",
    checkpoint: CheckpointChoice = "last",
    is_own: bool = False,
    vocabulary: VocabularyFacts | None = None,
) -> list[ProbeResult]:
    """All probes on all evaluation sets of the run's plan, or of ``evaluation``; recorded in the run.

    Args:
        is_own: the run's own evaluation, which its workers did not get to.
        vocabulary: by which scores are divided, instead of the run's own.

    Raises:
        RunNotFoundError: no such run, or no such complete checkpoint in it.
        PlanError: neither the plan nor ``evaluation`` names an evaluation set.
    """
    apply_quiet_env()
    store, plan, key = open_run(run_uri, cluster.storage.s3)
    plan = with_evaluation(plan, evaluation, cluster)
    if vocabulary is not None:
        plan = plan.model_copy(update={"evaluation_vocabulary": vocabulary})
    stored = find_checkpoint_of(store, checkpoint)
    logger.info("judging %s (%s weights)", stored.record.uri, weights)
    results = judge_weights(plan, load_weights(store, stored, average=weights == "ema"))
    write_predictions(store, stored.record.step, weights, results, "" if is_own else _asked(plan))
    tracker = open_tracker(run_target(plan, key), tracking_folder(run_uri, key), "evaluate", owns_run=False)
    digests = evaluation_digests(plan.evaluation, plan.evaluation_uris, plan.s3)
    record_evaluation(tracker, digests, stored.record.uri, stored.record.step, results, weights)
    tracker.close()
    return results


def _asked(plan: Plan) -> str:
    """Short name of what is judged, and by what."""
    asked = plan.evaluation.model_dump_json() + " ".join(plan.evaluation_uris)
    return hashlib.sha256(asked.encode()).hexdigest()[:8]


def evaluate_job(job: EvaluateSpec, cluster: ClusterSpec) -> dict[Weights, list[ProbeResult]]:
    """What an evaluate job asks for, by the weights that were judged; raises as ``evaluate_run`` does."""
    run_uri = join_uri(cluster.storage.runs, job.run)
    _, plan, _ = open_run(run_uri, cluster.storage.s3)
    return {
        weights: evaluate_run(run_uri, cluster, evaluation=job.evaluation, weights=weights)
        for weights in judged_weights(job.evaluation, has_average=plan.ema is not None)
    }


def judge_weights(plan: Plan, state: Mapping[str, Tensor]) -> list[ProbeResult]:
    """All probes on all evaluation sets of a plan, of parameters by name."""
    format = block_format(plan)
    objective = build_plan_objective(plan, format.vocabulary)
    # What is no parameter (positions, priors) is as it was built.
    objective.load_state_dict(objective.state_dict() | dict(state))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        return judge_plan(plan, objective.eval().to(device), format, device, rank=0, world_size=1)


def with_evaluation(plan: Plan, evaluation: EvaluationSpec | None, cluster: ClusterSpec) -> Plan:
    """The plan with its evaluation sets, or those of ``evaluation``, ready to be read.

    Raises:
        PlanError: neither names one.
    """
    if evaluation is not None:
        uris = tuple(join_uri(cluster.storage.data, name) for name in evaluation.sets)
        plan = plan.model_copy(update={"evaluation": evaluation, "evaluation_uris": uris})
    if not plan.evaluation.sets:
        raise PlanError(f"run '{plan.name}' names no evaluation set; name some in evaluation.sets of an evaluate job")
    ensure_evaluation_sets(plan.evaluation, plan.evaluation_uris, cluster.storage.s3)
    return plan
