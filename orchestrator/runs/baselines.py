"""Runs that a comparison did not train, judged as its replicates are: rows of its tables, no part of the verdict."""

import logging

from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.evaluation.comparison import TrialResult
from orchestrator.runs.comparison_record import ComparisonRecord, scores_of
from orchestrator.runs.evaluate import Judge, evaluate_run
from orchestrator.runs.folder import open_run
from orchestrator.runs.interrupts import StopRequest
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.load import join_uri
from orchestrator.training.checkpoint_folders import find_checkpoint_of
from orchestrator.training.judge import judged_weights

logger = logging.getLogger(__name__)


def start_baseline(name: str, cluster: ClusterSpec) -> TrialResult:
    """A run as a row that waits for its scores.

    Raises:
        RunNotFoundError: no such run, or no complete checkpoint in it.
    """
    run_uri = join_uri(cluster.storage.runs, name)
    store, plan, _ = open_run(run_uri, cluster.storage.s3)
    stored = find_checkpoint_of(store)
    return TrialResult(
        objective=plan.name,
        phase="verdict",
        replicate=0,
        run=plan.name,
        run_uri=run_uri,
        checkpoint_uri=stored.record.uri,
        status="waiting",
        steps=plan.steps,
        step=stored.record.step,
    )


def judge_baselines(
    spec: CompareSpec,
    cluster: ClusterSpec,
    vocabulary: VocabularyFacts | None,
    record: ComparisonRecord,
    stop: StopRequest,
    judge: Judge,
) -> None:
    """Judge those that no earlier start judged, one after the other, until somebody asks to stop.

    Args:
        vocabulary: by which the replicates' scores were divided.
    """
    known = {one.run_uri for one in record.result.baselines if one.status == "finished"}
    for name in spec.baselines:
        row = start_baseline(name, cluster)
        if row.run_uri not in known:
            record.put_baseline(row if stop.requested else _judged(row, spec, cluster, vocabulary, judge))


def _judged(
    row: TrialResult, spec: CompareSpec, cluster: ClusterSpec, vocabulary: VocabularyFacts | None, judge: Judge
) -> TrialResult:
    """With the comparison's weights where the run has them, else with those it has."""
    evaluation = spec.run.evaluation.model_copy(update={"weights": spec.weights})
    try:
        _, plan, _ = open_run(row.run_uri, cluster.storage.s3)
        (weights,) = judged_weights(evaluation, has_average=plan.ema is not None)
        results = evaluate_run(
            row.run_uri, cluster, evaluation=evaluation, weights=weights, vocabulary=vocabulary, judge=judge
        )
    except Interrupted:
        return row
    except OrchestratorError as error:
        logger.warning("baseline %s failed: %s", row.run, error)
        return row.model_copy(update={"status": "failed", "reason": str(error)})
    return row.model_copy(update={"status": "finished", "scores": scores_of(results, "verdict")})
