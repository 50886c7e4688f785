"""Ray Tune over a comparison: which trial is next, and which has to end early.

One Tuner holds all trials. The search algorithm is the agenda; each objective has a scheduler of its own, since only
trials of one objective can be compared before their end.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from orchestrator.errors import Interrupted
from orchestrator.evaluation.comparison import TrialResult
from orchestrator.runs.agenda import ENDED
from orchestrator.runs.comparison import Comparison
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.proposals import Proposals
from orchestrator.runs.relay import relay
from orchestrator.runs.trials import SAMPLES, SCORE, TrialRunner
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_kuberay import DRIVER_RESOURCE, KubeRaySpec
from orchestrator.spec.compare_plan import ComparePlan, TrialPlan


def run_tuning(comparison: Comparison, runner: TrialRunner) -> None:
    """Run what is left on the agenda; returns when all trials have ended, or soon after somebody asks to stop."""
    plan, agenda = comparison.plan, comparison.agenda
    live = _Live(comparison, runner)
    room = tune.PlacementGroupFactory([relay_resources(comparison.cluster)])
    trainable = tune.with_resources(tune.with_parameters(relay, board=runner.board), room)
    with tempfile.TemporaryDirectory(prefix="vl-orchestrator-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_AgendaSearcher(live),
                scheduler=build_schedulers(plan, comparison.record.result.trials),
                num_samples=len(agenda),
                max_concurrent_trials=plan.share.at_once,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["run"],
                trial_dirname_creator=lambda trial: trial.config["run"],
            ),
            run_config=tune.RunConfig(
                name=plan.name,
                storage_path=folder,  # holds Tune's own state; what a comparison goes on from lies in its folder
                stop=_StopAll(live),
                callbacks=[_Starter(live)],
                verbose=0,
            ),
        )
        fit_and_join(tuner.fit, runner, comparison.stop)


def fit_and_join(fit: Callable[[], object], runner: TrialRunner, stop: StopRequest) -> None:
    """Let Tune do its work; however that ends, no trial goes on behind the back of whoever called."""
    try:
        fit()
    except Interrupted:  # asked twice: at once
        raise
    except BaseException as error:
        stop.ask(f"Ray Tune ended by {type(error).__name__}")
        runner.join()
        raise
    runner.join()


def relay_resources(cluster: ClusterSpec) -> dict[str, float]:
    """What Tune's actor of a trial holds: room on a node of ``launch.drivers``, which no spot market takes back.

    Elsewhere next to nothing, since Tune wants something: a share of a CPU would be missing for a whole one that reads.
    """
    if isinstance(cluster.launch, KubeRaySpec) and cluster.launch.drivers is not None:
        return {DRIVER_RESOURCE: 1}
    return {"memory": 1}


def build_schedulers(plan: ComparePlan, before: Sequence[TrialResult]) -> TrialScheduler:
    """What ends search trials early, a scheduler for each objective.

    Args:
        before: what is known of the trials; those of earlier starts are what later ones are measured against.
    """
    return _SchedulerPerObjective(plan, before)


class _Live:
    """The parts of this process that Tune's objects speak to.

    Tune pickles its objects for a restore of its own; that is never asked for, and these parts stay behind.
    """

    def __init__(self, comparison: Comparison, runner: TrialRunner) -> None:
        self.agenda, self.should_stop, self.runner = comparison.agenda, comparison.should_stop, runner
        self.proposals = Proposals(comparison.plan, comparison.record)

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Live":
        return self


class _AgendaSearcher(Searcher):
    """Suggests the trials of the agenda as soon as they may start."""

    def __init__(self, live: _Live) -> None:
        super().__init__()
        self._live = live
        self._trials: dict[str, TrialPlan] = {}

    def suggest(self, trial_id: str) -> Any:
        agenda = self._live.agenda
        if self._live.should_stop() or not len(agenda):
            return Searcher.FINISHED
        trial = agenda.take()
        if trial is None:
            return None
        self._live.proposals.propose(trial)
        self._trials[trial_id] = trial
        return {"run": trial.run, "objective": trial.objective, "phase": trial.phase}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._live.proposals.tell(self._trials[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a comparison goes on from its own folder, not from Tune's."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as ``save``."""


class _SchedulerPerObjective(TrialScheduler):
    """Hands each search trial to the scheduler of its objective; replicates run to their end."""

    def __init__(self, plan: ComparePlan, before: Sequence[TrialResult]) -> None:
        super().__init__()
        self._of_label = {label: _build_scheduler(plan, label) for label in plan.labels}
        self._fifo = FIFOScheduler()
        searched = [trial for trial in before if trial.phase == "search"]
        self._earlier = {trial.run: list(_judged(trial, plan.search_metric or "")) for trial in searched}
        for trial in searched:
            if trial.status in ENDED:
                self._add_earlier(_EndedTrial(trial))

    def _of(self, trial: Any) -> TrialScheduler:
        is_search = trial.config["phase"] == "search"
        return self._of_label[trial.config["objective"]] if is_search else self._fifo

    def _add_earlier(self, trial: Any) -> None:
        """Results of earlier starts, each as if the trial ended there: added without a decision."""
        scheduler = self._of(trial)
        for result in self._earlier.get(trial.config["run"], ()):
            scheduler.on_trial_add(None, trial)
            scheduler.on_trial_complete(None, trial, result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._add_earlier(trial)
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = self._of(trial).on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self._fifo.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return "one scheduler for each objective"


class _EndedTrial:
    """A search trial of an earlier start; what schedulers read of one of Tune's."""

    def __init__(self, trial: TrialResult) -> None:
        self.trial_id = trial.run
        self.config = {"run": trial.run, "objective": trial.objective, "phase": trial.phase}


def _judged(trial: TrialResult, metric: str) -> Iterator[dict[str, Any]]:
    """What Tune heard of a trial."""
    for point in trial.curve:
        if metric in point.scores:
            yield {SAMPLES: point.samples, SCORE: point.scores[metric]}


def _build_scheduler(plan: ComparePlan, label: str) -> TrialScheduler:
    search, trials = plan.search, plan.trials_of(label, "search")
    if search is None or search.scheduler == "none" or not trials:
        return FIFOScheduler()
    shared = {"time_attr": SAMPLES, "metric": SCORE, "mode": "max", "grace_period": plan.rung_samples[label]}
    if search.scheduler == "median":
        return MedianStoppingRule(min_time_slice=math.inf, **shared)  # else it would pause trials for others
    # One sample more than there are: the end of a trial is its own, not the scheduler's.
    return ASHAScheduler(max_t=trials[0].samples + 1, reduction_factor=search.reduction_factor, **shared)


class _StopAll(Stopper):
    def __init__(self, live: _Live) -> None:
        self._live = live

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._live.should_stop()


class _Starter(tune.Callback):
    """Starts a trial in the driver when Tune starts its relay, and ends it when Tune ends that early."""

    def __init__(self, live: _Live) -> None:
        self._live = live

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._live.runner.start(trial.config["run"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._live.runner.stop_early(trial.config["run"])
