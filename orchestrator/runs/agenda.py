"""Which trial of a comparison may start next, and what the search chose. Decides only; ``tuning.py`` acts.

The replicates of an objective wait for its own search trials and for no others, a cooldown for its replicate.
"""

from typing import Any

from orchestrator.errors import WorkError
from orchestrator.evaluation.comparison import TrialResult
from orchestrator.runs.comparison_record import ComparisonRecord
from orchestrator.spec.compare_plan import ComparePlan, TrialPlan

ENDED = ("finished", "stopped", "failed")
"""Statuses of trials that are not started again, but for failed ones at another start."""


class Agenda:
    """Hands out trials in the order of the plan, as soon as they may start."""

    def __init__(self, plan: ComparePlan, record: ComparisonRecord) -> None:
        self._plan = plan
        self._record = record
        self._left = [trial for trial in plan.trials if record.trial(trial.run).status not in ENDED]

    def __len__(self) -> int:
        return len(self._left)

    def take(self) -> TrialPlan | None:
        """The next trial that may start; None while all that are left must wait."""
        for trial in self._left:
            if self._may_start(trial):
                self._left.remove(trial)
                return trial
        return None

    def chosen(self, label: str) -> dict[str, Any]:
        """The settings with the best score on validation rows, once an objective's search trials have ended.

        Raises:
            WorkError: none of them got as far as a score.
        """
        if not self._plan.trials_of(label, "search"):
            return {}
        assert self._plan.search_metric is not None, "a plan with search trials has what they are chosen by"
        judged = [trial for trial in self._searched(label) if self._plan.search_metric in trial.scores]
        # One that was stopped early is behind those that went on; it counts only where none did.
        judged = [trial for trial in judged if trial.status == "finished"] or judged
        if not judged:
            raise WorkError(f"no search trial of objective '{label}' was judged; their reasons stand in the comparison")
        best = max(judged, key=lambda trial: trial.scores[self._plan.search_metric or ""])
        self._record.choose(label, best.settings)
        return best.settings

    def _may_start(self, trial: TrialPlan) -> bool:
        if trial.job.start is not None:
            return self._record.trial(trial.job.start.run).status in ENDED
        return trial.phase == "search" or self._is_searched(trial.objective)

    def _is_searched(self, label: str) -> bool:
        return all(trial.status in ENDED for trial in self._searched(label))

    def _searched(self, label: str) -> list[TrialResult]:
        return [self._record.trial(trial.run) for trial in self._plan.trials_of(label, "search")]
