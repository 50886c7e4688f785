"""Pairs of a comparison's objectives: what each replicate of both got, and how far one is ahead.

Judged on the replicates that both finished (same data in the same order) and, where predictions are there, on test rows
too (``paired.py``). P values are corrected over all pairs (Holm); intervals are each pair's own.

Legend: R replicates, N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.evaluation.paired import CONFIDENCE, MIN_REPLICATES, PairedEstimate, holm, paired_estimate

Rows = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Row numbers, and what each row adds to a score that is their mean."""

_SAME_SCORE = 1e-6


@dataclass(frozen=True)
class Spread:
    """The primary metric of one objective, over its replicates."""

    objective: str
    scores: tuple[float, ...]
    """By replicate."""

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(np.mean(self.scores))

    @property
    def is_too_few(self) -> bool:
        """Whether they give no interval."""
        return len(self.scores) < MIN_REPLICATES


@dataclass(frozen=True)
class PairVerdict:
    """Two objectives, first the better one in the mean of the replicates that both finished."""

    ahead: str
    behind: str
    num_replicates: int
    num_rows: int
    """Test rows that were resampled in effect; 0: none are known, the interval is over replicates alone."""
    difference: PairedEstimate | None
    """How far the first is ahead, positive where it is better; none: too few replicates, or a single test row."""
    p_holm: float
    """Corrected over all pairs."""

    @property
    def is_shown(self) -> bool:
        """Whether the difference is significant after correction."""
        return self.difference is not None and self.p_holm < 1 - CONFIDENCE


def finished_replicates(comparison: ComparisonResult) -> dict[str, dict[int, TrialResult]]:
    """By objective and replicate, what ended with the primary metric."""
    found: dict[str, dict[int, TrialResult]] = {one.label: {} for one in comparison.objectives}
    for trial in sorted(comparison.replicates, key=lambda trial: trial.replicate):
        if trial.status == "finished" and comparison.primary_metric in trial.scores:
            found[trial.objective][trial.replicate] = trial
    return found


def _score(comparison: ComparisonResult, trial: TrialResult) -> float:
    return trial.scores[comparison.primary_metric]


def rank_objectives(comparison: ComparisonResult, finished: Mapping[str, Mapping[int, TrialResult]]) -> list[Spread]:
    """What each objective's replicates got, best mean first; those that ended with no score are left out."""
    spreads = [
        Spread(label, tuple(_score(comparison, trial) for trial in trials.values()))
        for label, trials in finished.items()
        if trials
    ]
    return sorted(spreads, key=lambda spread: spread.mean, reverse=comparison.higher_is_better)


def judge_pairs(
    comparison: ComparisonResult,
    ranking: Sequence[str],
    finished: Mapping[str, Mapping[int, TrialResult]],
    rows: Mapping[str, Rows],
) -> tuple[PairVerdict, ...]:
    """Every two of the objectives that are ranked.

    Args:
        rows: by run, see ``find_verdict``.
    """
    sign = 1.0 if comparison.higher_is_better else -1.0
    judged: list[tuple[str, str, int, int, PairedEstimate | None]] = []
    for ahead, behind in combinations(ranking, 2):
        common = sorted(finished[ahead].keys() & finished[behind].keys())
        trials = [(finished[ahead][number], finished[behind][number]) for number in common]
        difference_RN = _row_differences(comparison, trials, rows)
        num_rows = 0 if difference_RN is None else difference_RN.shape[1]
        if difference_RN is None:
            of_scores = [_score(comparison, first) - _score(comparison, second) for first, second in trials]
            difference_RN = np.array(of_scores)[:, None]
        difference_RN = sign * difference_RN
        if difference_RN.sum() < 0:  # replicates that only one of them finished made it the first
            ahead, behind, difference_RN = behind, ahead, -difference_RN
        # One row says nothing of how far rows differ: an interval over replicates alone would claim that they do not.
        is_judged = len(common) >= MIN_REPLICATES and num_rows != 1
        estimate = paired_estimate(difference_RN) if is_judged else None
        judged.append((ahead, behind, len(common), num_rows, estimate))
    corrected = holm([1.0 if estimate is None else estimate.p_value for *_, estimate in judged])
    return tuple(PairVerdict(*one, p_holm) for one, p_holm in zip(judged, corrected, strict=True))


def _row_differences(
    comparison: ComparisonResult, trials: Sequence[tuple[TrialResult, TrialResult]], rows: Mapping[str, Rows]
) -> NDArray[np.float64] | None:
    """[R, N]; none where a run's rows are unknown, not those of the others, or not those of its score."""
    runs = [trial for pair in trials for trial in pair]
    if not runs or any(trial.run not in rows for trial in runs):
        return None
    numbers_N = rows[runs[0].run][0]
    for trial in runs:
        own_N, value_N = rows[trial.run]
        if not np.array_equal(own_N, numbers_N) or abs(value_N.mean() - _score(comparison, trial)) > _SAME_SCORE:
            return None
    return np.stack([rows[first.run][1] - rows[second.run][1] for first, second in trials])
