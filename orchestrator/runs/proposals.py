"""What search trials try where the plan does not say it: Optuna's proposals, each made of the trials before it.

Through Ray Tune's own searcher, one study for each objective. A comparison that goes on tells a new study what the
record has of earlier trials, so nothing but the record is kept.
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.runs.agenda import ENDED
from orchestrator.runs.comparison_record import ComparisonRecord
from orchestrator.spec.compare_plan import ComparePlan, TrialPlan
from orchestrator.spec.search import DomainSpec

_SCORE = "score"


class Proposals:
    """Proposes settings to trials that have none yet; asked and told from one thread."""

    def __init__(self, plan: ComparePlan, record: ComparisonRecord) -> None:
        self._plan, self._record = plan, record
        self._studies: dict[str, Any] = {}
        self._proposed: set[str] = set()
        self._ended: set[str] = set()

    def propose(self, trial: TrialPlan) -> None:
        """Give a search trial its settings, unless the plan or an earlier start did."""
        if trial.phase != "search" or self._record.trial(trial.run).settings:
            return
        if trial.objective not in self._studies:
            self._studies[trial.objective] = self._open_study(trial.objective)
        proposed = self._studies[trial.objective].suggest(trial.run)
        self._proposed.add(trial.run)
        self._record.change(trial.run, settings=_decode(proposed, self._plan.spaces[trial.objective]))

    def tell(self, trial: TrialPlan) -> None:
        """Let the study know how a trial went, at its end or where it was stopped."""
        self._ended.add(trial.run)
        study = self._studies.get(trial.objective)
        if study is None or trial.phase != "search":
            return
        score = self._score(trial)
        if trial.run in self._proposed:
            study.on_trial_complete(trial.run, None if score is None else {_SCORE: score}, error=score is None)
        elif score is not None:  # it got its settings at an earlier start, from a study that is no more
            study.add_evaluated_point(self._point(trial), score)

    def _score(self, trial: TrialPlan) -> float | None:
        return self._record.trial(trial.run).scores.get(self._plan.search_metric or "")

    def _point(self, trial: TrialPlan) -> dict[str, Any]:
        return _encode(self._record.trial(trial.run).settings, self._plan.spaces[trial.objective])

    def _has_ended(self, trial: TrialPlan) -> bool:
        """One that goes on is told of at its end."""
        return trial.run in self._ended or self._record.trial(trial.run).status in ENDED

    def _open_study(self, label: str) -> Any:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        assert self._plan.search is not None, "a plan with search trials says how they are searched"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        trials = self._plan.trials_of(label, "search")
        known = [
            (self._point(trial), score)
            for trial in trials
            if self._has_ended(trial) and (score := self._score(trial)) is not None
        ]
        num_proposed = sum(bool(self._record.trial(trial.run).settings) for trial in trials)
        return OptunaSearch(
            {key: _distribution(domain) for key, domain in self._plan.spaces[label].items()},
            metric=_SCORE,
            mode="max",
            seed=self._plan.search.seed + num_proposed,  # one that goes on must not propose its first settings again
            points_to_evaluate=[settings for settings, _ in known] or None,
            evaluated_rewards=[score for _, score in known] or None,
        )


def _distribution(domain: DomainSpec) -> Any:
    """Choices by number, since Optuna takes no lists (betas)."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if domain.choice is not None:
        return CategoricalDistribution(tuple(range(len(domain.choice))))
    return FloatDistribution(*domain.ends, log=domain.log_uniform is not None)


def _decode(proposed: Mapping[str, Any], space: Mapping[str, DomainSpec]) -> dict[str, Any]:
    return {key: domain.choice[proposed[key]] if domain.choice else proposed[key] for key, domain in space.items()}


def _encode(settings: Mapping[str, Any], space: Mapping[str, DomainSpec]) -> dict[str, Any]:
    return {
        key: domain.choice.index(settings[key]) if domain.choice else settings[key] for key, domain in space.items()
    }
