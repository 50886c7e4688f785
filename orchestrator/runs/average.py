"""Runs averaged into one: ``orchestrator average``. The mean is an ordinary checkpoint that names its parents."""

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.env import apply_quiet_env
from orchestrator.errors import EvaluationError, ModelSourceError, RunNotFoundError
from orchestrator.evaluation.results import ProbeResult, summarise
from orchestrator.runs.evaluate import with_evaluation
from orchestrator.runs.folder import open_run
from orchestrator.runs.made import check_free, write_made_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.evaluation import Probe
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import Plan, TrackingPlan
from orchestrator.spec.plan_differences import compare_identities
from orchestrator.spec.resolve import resolve_tracking_uri
from orchestrator.storage.store import Store, open_store
from orchestrator.training.average import (
    Shares,
    Trial,
    best_trial,
    greedy_soup,
    interpolate,
    mean_tensors,
    uniform_shares,
)
from orchestrator.training.checkpoint_folders import StoredCheckpoint, list_stored
from orchestrator.training.judge import judge_weights
from orchestrator.training.made_checkpoint import WholeTensors, open_tensors
from orchestrator.training.reports import Weights

logger = logging.getLogger(__name__)

Method = Literal["uniform", "greedy", "wise_ft"]
_RUN_AT_STEP = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class Parent:
    """One checkpoint that goes into a mean."""

    store: Store
    plan: Plan
    stored: StoredCheckpoint


@dataclass(frozen=True)
class AveragedRun:
    """What was tried, what was taken, and where it is now."""

    plan: Plan
    checkpoint_uri: str
    parents: tuple[str, ...]
    trials: tuple[Trial, ...]
    """None where nothing had to be chosen."""
    shares: Shares


def find_parents(runs: Sequence[str], cluster: ClusterSpec, last: int | None = None) -> list[Parent]:
    """Checkpoints by run URI: the last of each run, that of ``URI@STEP``, or the ``last`` ones of a single run.

    Raises:
        RunNotFoundError: no such run or checkpoint.
        ModelSourceError: their models are not the same, or there is nothing to average; says what differs.
    """
    if last is not None and len(runs) != 1:
        raise ModelSourceError(f"the last {last} checkpoints are those of one run; {len(runs)} runs are named")
    parents = [parent for run in runs for parent in _checkpoints_of(run, cluster, last or 1)]
    if len(parents) < 2:
        raise ModelSourceError(
            f"one checkpoint ({parents[0].stored.record.uri}) is its own mean; name several runs, RUN@STEP, or "
            f"--last K of a run that keeps them (checkpoint.keep_last)"
        )
    for parent in parents[1:]:
        _check_same_model(parents[0], parent)
    return parents


def average_runs(
    parents: Sequence[Parent],
    name: str,
    cluster: ClusterSpec,
    *,
    method: Method = "uniform",
    alphas: Sequence[float] = (),
    weights: Weights = "raw",
    probe: Probe | None = None,
    evaluation_sets: Sequence[str] = (),
) -> AveragedRun:
    """Write the mean as run ``name``; ``greedy`` and ``wise_ft`` judge means on the evaluation sets of the last plan.

    Args:
        alphas: ``wise_ft``: shares of the second of two parents; the best is written.
        probe: whose mean accuracy decides; none: zero-shot where it applies, else the linear probe.

    Raises:
        CheckpointError: a damaged checkpoint, or no average of the weights where one is asked for.
        EvaluationError, PlanError: nothing to judge by.
    """
    apply_quiet_env()
    run_uri = join_uri(cluster.storage.runs, name)
    store = open_store(run_uri, cluster.storage.s3)
    check_free(store, name)
    uris = tuple(parent.stored.record.uri for parent in parents)
    plan = _plan_of_mean(parents, name, run_uri, cluster, method, evaluation_sets)
    with ExitStack() as stack:
        opened = [
            stack.enter_context(open_tensors(parent.store, parent.stored, weights == "ema")) for parent in parents
        ]
        score = _judge_means(opened, plan, cluster, probe)
        trials = _try_means(method, len(parents), alphas, score)
        shares = best_trial(trials).shares if trials else uniform_shares(len(parents))
        state: dict[str, Any] = {
            "identity": plan.identity_digest,
            "method": method,
            "parents": [
                {"uri": uri, "weights": weights, "share": share} for uri, share in zip(uris, shares, strict=True)
            ],
            "trials": [{"shares": trial.shares, "score": trial.score} for trial in trials],
        }
        step = max(parent.stored.record.step for parent in parents)
        record = write_made_run(store, plan, step, state, opened[0].shapes, mean_tensors(opened, shares))
    return AveragedRun(plan, record.uri, uris, tuple(trials), shares)


def _checkpoints_of(run: str, cluster: ClusterSpec, last: int) -> list[Parent]:
    at_step = _RUN_AT_STEP.fullmatch(run)
    store, plan, _ = open_run(at_step[1] if at_step else run, cluster.storage.s3)
    complete = list_stored(store)
    if at_step:
        complete = [stored for stored in complete if stored.record.step == int(at_step[2])]
    if len(complete) < last:
        steps = ", ".join(str(stored.record.step) for stored in list_stored(store)) or "none"
        wanted = f"one at step {at_step[2]}" if at_step else f"{last}"
        raise RunNotFoundError(f"{store.uri}: complete checkpoints at steps {steps}; wanted {wanted}")
    return [Parent(store, plan, stored) for stored in complete[:last]]


def _check_same_model(one: Parent, other: Parent) -> None:
    facts = [{**_model_facts(parent.plan), "shapes": parent.stored.record.engine.shapes} for parent in (one, other)]
    if differences := compare_identities(facts[1], facts[0]):
        raise ModelSourceError(
            f"{other.stored.record.uri} is another model than {one.stored.record.uri}: "
            + "; ".join(line for line in differences if not line.startswith("shapes") or len(differences) == 1)
        )


def _model_facts(plan: Plan) -> dict[str, Any]:
    names = ("model.", "text.context", "tokenizer", "vocabulary")
    facts = {key: value for key, value in plan.identity.items() if key.startswith(names)}
    return {**facts, "objective": plan.objective.name}


def _plan_of_mean(
    parents: Sequence[Parent],
    name: str,
    run_uri: str,
    cluster: ClusterSpec,
    method: Method,
    evaluation_sets: Sequence[str],
) -> Plan:
    plan = parents[-1].plan
    origin = f"average ({method}) of {', '.join(parent.stored.record.uri for parent in parents)}"
    evaluation = plan.evaluation
    uris = plan.evaluation_uris
    if evaluation_sets:
        evaluation = evaluation.model_copy(update={"sets": tuple(evaluation_sets), "layouts": {}})
        uris = tuple(join_uri(cluster.storage.data, location) for location in evaluation_sets)
    tracking = TrackingPlan(uri=resolve_tracking_uri(cluster), experiment=plan.tracking.experiment)
    return plan.model_copy(
        update={
            "name": name,
            "run_uri": run_uri,
            "origin": origin,
            "evaluation": evaluation,
            "evaluation_uris": uris,
            "s3": cluster.storage.s3,
            "tracking": tracking,
        }
    )


def _try_means(
    method: Method, num_parents: int, alphas: Sequence[float], score: Callable[[Shares], float]
) -> list[Trial]:
    if method == "greedy":
        return greedy_soup(num_parents, score)
    if method == "wise_ft":
        if num_parents != 2 or not alphas:
            raise ModelSourceError(f"wise_ft goes between two checkpoints at some alphas; {num_parents} are named")
        return interpolate(alphas, score)
    return []


def _judge_means(
    opened: Sequence[WholeTensors], plan: Plan, cluster: ClusterSpec, probe: Probe | None
) -> Callable[[Shares], float]:
    """Means to the accuracy of one probe; by default zero-shot where the model reads captions."""
    judging = probe or ("zero_shot" if plan.model.tokenizer is not None else "linear_probe")
    evaluation = plan.evaluation.model_copy(update={"probes": (judging,)})
    plan = plan.model_copy(update={"evaluation": evaluation})

    def score(shares: Shares) -> float:
        results = judge_weights(with_evaluation(plan, None, cluster), dict(mean_tensors(opened, shares)))
        found = mean_accuracy(results)
        logger.info("shares %s: %s accuracy %.4f", ", ".join(f"{share:.3g}" for share in shares), judging, found)
        return found

    return score


def mean_accuracy(results: Sequence[ProbeResult]) -> float:
    """Over all sets and the targets that captions name (all targets where they name none).

    Raises:
        EvaluationError: the probe does not apply.
    """
    means = summarise(results)
    for group in ("named", "all"):
        found = [value for key, value in means.items() if key.endswith(f"/{group}/mean_accuracy")]
        if found:
            return sum(found) / len(found)
    reasons = sorted({result.reason for result in results}) or ["no evaluation set asks anything"]
    raise EvaluationError(f"nothing to choose a mean by: {'; '.join(reasons)}; name another --probe")
