"""The best replicate of a comparison becomes a version in MLflow's model registry.

The version names the checkpoint and holds no weights; ``promote`` makes one that loads.
"""

import logging
import re

from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.runs.folder import open_run, tracking_folder
from orchestrator.runs.target import run_target
from orchestrator.spec.cluster import S3Spec
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.training.checkpoint_folders import find_checkpoint_of, keep_promoted, release_promoted

logger = logging.getLogger(__name__)

_TIMEOUT_S = 20.0


def register_champion(result: ComparisonResult, s3: S3Spec) -> None:
    """Register the best replicate's checkpoint under the comparison's name; from then on no retention removes it.

    The version goes through the journal of the replicate's run: a server that is away gets it with ``runs --sync``.
    What goes wrong is said; the comparison has its result all the same.
    """
    best = find_champion(result)
    if best is None:
        return
    alias = champion_alias(result.primary_metric)
    try:
        store, plan, key = open_run(best.run_uri, s3)
        record = find_checkpoint_of(store, best.step).record
        keep_promoted(store, result.name, alias, record.step)
        for other in (trial for trial in _candidates(result) if trial.run != best.run):
            release_promoted(open_store(other.run_uri, s3), result.name, alias)
        tracker = open_tracker(run_target(plan, key), tracking_folder(best.run_uri, key), "champion", owns_run=False)
        tracker.log_version(record.uri, record.step, result.name, alias, best.run_uri)
        tracker.close(_TIMEOUT_S)
    except OrchestratorError as error:
        logger.warning("the best replicate, %s, is no version of a registered model: %s", best.run, error)


def find_champion(result: ComparisonResult) -> TrialResult | None:
    """The finished replicate with the best primary metric; none: none has finished."""
    sign = 1 if result.higher_is_better else -1
    return max(_candidates(result), key=lambda trial: sign * trial.scores[result.primary_metric], default=None)


def champion_alias(metric: str) -> str:
    """Such as ``champion-scenes-eval-linear_probe-shape-accuracy``: MLflow allows letters, digits, - and _."""
    return "champion-" + re.sub(r"[^\w-]", "-", metric.removeprefix("eval/"))


def _candidates(result: ComparisonResult) -> list[TrialResult]:
    return [
        trial
        for trial in result.trials
        if (trial.phase, trial.status) == ("verdict", "finished") and result.primary_metric in trial.scores
    ]
