"""The verdict of a comparison: which objective is ahead in the primary metric, by how much, and how sure that is.

Computed once, when every replicate has ended. Fewer than three replicates give their spread and no verdict. Pairs of
objectives are judged on the replicates that both finished (same data in the same order) and, where predictions are
there, on test rows too (``paired.py``). P values are corrected over all pairs (Holm); intervals are each pair's own.

Legend: R replicates, N rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.evaluation.metric_words import (
    describe_metric,
    format_difference,
    format_score,
    set_of,
    unit_of_difference,
)
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


@dataclass(frozen=True)
class PairVerdict:
    """Two objectives, first the better one in the mean of the replicates that both finished."""

    ahead: str
    behind: str
    num_replicates: int
    num_rows: int
    """Test rows that were resampled in effect; 0: none are known, the interval is over replicates alone."""
    difference: PairedEstimate | None
    """How far the first is ahead, positive where it is better; none: too few replicates."""
    p_holm: float
    """Corrected over all pairs."""

    @property
    def is_shown(self) -> bool:
        """Whether the difference is significant after correction."""
        return self.difference is not None and self.p_holm < 1 - CONFIDENCE


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows."""

    sentence: str
    notes: tuple[str, ...]
    """What a reader must know to weigh the sentence."""
    spreads: tuple[Spread, ...]
    """Best mean first."""
    pairs: tuple[PairVerdict, ...]


def find_verdict(comparison: ComparisonResult, rows: Mapping[str, Rows]) -> Verdict:
    """The verdict.

    Args:
        rows: by run, of the primary metric (``predictions.row_scores``), for those runs whose predictions are there.
    """
    finished = _finished(comparison)
    spreads = [
        Spread(one.label, tuple(_score(comparison, trial) for trial in trials.values()))
        for one in comparison.objectives
        if (trials := finished[one.label])
    ]
    spreads.sort(key=lambda spread: spread.mean, reverse=comparison.higher_is_better)
    pairs = _judge_pairs(comparison, [spread.objective for spread in spreads], finished, rows)
    waiting = sum(trial.status in ("waiting", "running") for trial in _replicates(comparison))
    sentence = _sentence(comparison, spreads, pairs, waiting)
    return Verdict(sentence, tuple(_notes(comparison, pairs, rows)), tuple(spreads), pairs)


def _replicates(comparison: ComparisonResult) -> list[TrialResult]:
    return [trial for trial in comparison.trials if trial.phase == "verdict"]


def _finished(comparison: ComparisonResult) -> dict[str, dict[int, TrialResult]]:
    """By objective and replicate, what ended with the primary metric."""
    found: dict[str, dict[int, TrialResult]] = {one.label: {} for one in comparison.objectives}
    for trial in sorted(_replicates(comparison), key=lambda trial: trial.replicate):
        if trial.status == "finished" and comparison.primary_metric in trial.scores:
            found[trial.objective][trial.replicate] = trial
    return found


def _score(comparison: ComparisonResult, trial: TrialResult) -> float:
    return trial.scores[comparison.primary_metric]


def _judge_pairs(
    comparison: ComparisonResult,
    ranking: Sequence[str],
    finished: Mapping[str, Mapping[int, TrialResult]],
    rows: Mapping[str, Rows],
) -> tuple[PairVerdict, ...]:
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
        estimate = paired_estimate(difference_RN) if len(common) >= MIN_REPLICATES else None
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


def _sentence(
    comparison: ComparisonResult, spreads: Sequence[Spread], pairs: Sequence[PairVerdict], waiting: int
) -> str:
    metric = comparison.primary_metric
    scores = ", ".join(_say_spread(metric, spread) for spread in spreads)
    if waiting:
        number = len(_replicates(comparison))
        return f"No verdict yet: {waiting} of {number} replicates have not ended" + (f"; {scores}." if scores else ".")
    if len(spreads) < 2:
        return "No verdict: fewer than two objectives ended with the primary metric" + (
            f"; {scores}." if scores else "."
        )
    if all(pair.difference is None for pair in pairs):
        most = max(pair.num_replicates for pair in pairs)
        had = f"{most} replicate shows" if most == 1 else f"{most} replicates show"
        return f"No verdict: {had} a spread only, {MIN_REPLICATES} or more give one; {scores}."
    told = _pairs_to_tell(spreads, pairs)
    shown = groupby((pair for pair in told if pair.is_shown), key=lambda pair: pair.ahead)
    clauses = [f"{ahead} is ahead of " + " and of ".join(_say_by(metric, pair) for pair in own) for ahead, own in shown]
    if unclear := [pair for pair in told if not pair.is_shown]:
        names = [f"{pair.ahead} and {pair.behind} ({_say_unclear(metric, pair)})" for pair in unclear]
        clauses.append("no difference could be shown between " + ", nor between ".join(names))
    intervals = f"{100 * CONFIDENCE:.0f} % interval" + ("s" if len(told) > 1 else "")
    text = "; ".join(clauses) + f": {intervals}, {_say_evidence(pairs)}."
    return text if any(pair.is_shown for pair in told) else text[0].upper() + text[1:]


def _pairs_to_tell(spreads: Sequence[Spread], pairs: Sequence[PairVerdict]) -> list[PairVerdict]:
    """Those of the objective that is ahead in most; where none of them is shown, all that are; by who is ahead."""
    wins = Counter(pair.ahead for pair in pairs)
    first = max((spread.objective for spread in spreads), key=lambda label: wins[label])
    told = [pair for pair in pairs if first in (pair.ahead, pair.behind)]
    if not any(pair.is_shown for pair in told):
        told = [pair for pair in pairs if pair.is_shown] or told
    return sorted(told, key=lambda pair: (-wins[pair.ahead], pair.ahead))


def _say_by(metric: str, pair: PairVerdict) -> str:
    assert pair.difference is not None, "what is shown has a difference"
    by = f"{format_difference(metric, pair.difference.mean)} {unit_of_difference(metric)}"
    return f"{pair.behind} by {by} ({_say_interval(metric, pair)})"


def _say_interval(metric: str, pair: PairVerdict) -> str:
    if pair.difference is None:
        return "too few replicates"
    return f"{format_difference(metric, pair.difference.low)} to {format_difference(metric, pair.difference.high)}"


def _say_unclear(metric: str, pair: PairVerdict) -> str:
    """The interval; one that ends above zero needs the reason why it does not count."""
    interval = _say_interval(metric, pair)
    if pair.difference is None or pair.difference.low <= 0:
        return interval
    return f"{interval} by itself, p = {pair.p_holm:.2g} over all pairs"


def _say_evidence(pairs: Sequence[PairVerdict]) -> str:
    numbers = sorted({pair.num_replicates for pair in pairs if pair.difference is not None})
    replicates = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    corrected = f", Holm-corrected over {len(pairs)} pairs" if len(pairs) > 1 else ""
    return f"{replicates} replicates paired by seed{corrected}"


def _say_spread(metric: str, spread: Spread) -> str:
    low, high = format_score(metric, min(spread.scores)), format_score(metric, max(spread.scores))
    return f"{spread.objective} {low}" + (f" to {high}" if len(spread.scores) > 1 else "")


def _notes(comparison: ComparisonResult, pairs: Sequence[PairVerdict], known: Mapping[str, Rows]) -> list[str]:
    metric = comparison.primary_metric
    notes = [f"Primary metric: {describe_metric(metric)} on {set_of(metric)}. All other metrics are descriptive."]
    notes.append(
        "Controlled: same towers, augmentation, resolution and data; only what belongs to the objective differs."
        if comparison.mode == "controlled"
        else "Recipe: each objective with its paper's settings; differences are those of whole recipes."
    )
    if untuned := [one.label for one in comparison.objectives if not one.tuned]:
        notes.append(f"Untuned (nothing was searched): {', '.join(untuned)}.")
    notes += [
        f"{trial.objective}, replicate {trial.replicate}, has no part: {trial.status}"
        + (
            f" ({trial.reason})."
            if trial.reason
            else ", without the primary metric."
            if trial.status == "finished"
            else "."
        )
        for trial in _replicates(comparison)
        if trial.status in ("failed", "stopped") or (trial.status == "finished" and metric not in trial.scores)
    ]
    without_rows = [pair for pair in pairs if pair.difference is not None and not pair.num_rows]
    if without_rows:
        notes.append(f"Intervals are over replicates alone: {_say_no_rows(comparison, known)}.")
    elif rows := max((pair.num_rows for pair in pairs if pair.difference is not None), default=0):
        notes.append(f"Intervals are over replicates and {rows:,} test rows together.")
    return notes


def _say_no_rows(comparison: ComparisonResult, rows: Mapping[str, Rows]) -> str:
    numbers = [rows[trial.run][0] for trial in _replicates(comparison) if trial.run in rows]
    if any(not np.array_equal(number_N, numbers[0]) for number_N in numbers):
        return "replicates were judged on different test rows (some could not be read, or the set changed)"
    return "what single test rows got is not known for this metric"
