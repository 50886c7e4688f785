"""What a verdict says: its sentence, and the notes below it."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from orchestrator.evaluation.comparison import ComparisonResult, TrialResult
from orchestrator.evaluation.metric_words import (
    describe_metric,
    format_difference,
    format_score,
    set_of,
    unit_of_difference,
)
from orchestrator.evaluation.objective_pairs import PairVerdict, Rows, Spread
from orchestrator.evaluation.paired import CONFIDENCE, MIN_REPLICATES

MOST_TOLD = 6
"""Pairs that a sentence holds."""
_MOST_NAMED = 3
_LITTLE = 0.01
"""A share of left-out samples that is not worth a note."""


def say_verdict(
    comparison: ComparisonResult,
    spreads: Sequence[Spread],
    pairs: Sequence[PairVerdict],
    told: Sequence[PairVerdict],
) -> str:
    """One sentence; ``told``: the pairs that it tells, by who is ahead."""
    scores = [", ".join(_say_spread(comparison.primary_metric, spread) for spread in spreads)] if spreads else []
    number = len(comparison.replicates)
    if waiting := sum(trial.status in ("waiting", "running") for trial in comparison.replicates):
        return "; ".join([f"No verdict yet: {waiting} of {number} replicates have not ended", *scores]) + "."
    if any(pair.difference is not None for pair in pairs):
        told_words = _say_told(comparison.primary_metric, spreads, told)
        without = _say_too_few(spreads) + _say_absent(comparison, spreads) + _say_left_out(pairs, told)
        return "; ".join([f"{told_words}, {_say_evidence(pairs)}", *without]) + "."
    return "; ".join([f"No verdict: {_say_why_none(spreads, pairs)}", *scores, *_say_absent(comparison, spreads)]) + "."


def _say_why_none(spreads: Sequence[Spread], pairs: Sequence[PairVerdict]) -> str:
    if len(spreads) < 2:
        return "fewer than two objectives ended with the primary metric"
    most = max(pair.num_replicates for pair in pairs)
    if most >= MIN_REPLICATES:
        return "one test row is too few to compare by"
    had = f"{most} replicate shows" if most == 1 else f"{most} replicates show"
    return f"{had} a spread only, {MIN_REPLICATES} or more give one"


def _say_told(metric: str, spreads: Sequence[Spread], told: Sequence[PairVerdict]) -> str:
    shown, unclear = ([pair for pair in told if pair.is_shown == is_shown] for is_shown in (True, False))
    clauses = [
        f"{label} is ahead of " + " and of ".join(_say_by(metric, pair) for pair in own)
        for label, own in groupby(shown, key=lambda pair: pair.ahead)
    ]
    if unclear:
        best = spreads[0].objective
        is_passed = bool(shown) and all(pair.ahead != best for pair in shown)
        clauses.append(_say_unclear_pairs(metric, unclear, best if is_passed else ""))
    text = "; ".join(clauses) + f": {100 * CONFIDENCE:.0f} % interval" + ("s" if len(told) > 1 else "")
    return text if shown else text[0].upper() + text[1:]


def _say_unclear_pairs(metric: str, unclear: Sequence[PairVerdict], best: str) -> str:
    """``best``: has the best mean, and another one is said to be ahead; empty: no such."""
    calls = {best: f"{best} (best mean)"}  # once, where it is named first
    names = [
        f"{calls.pop(pair.ahead, pair.ahead)} and {calls.pop(pair.behind, pair.behind)} ({_say_unclear(metric, pair)})"
        for pair in unclear
    ]
    return "no difference could be shown between " + ", nor between ".join(names)


def _say_too_few(spreads: Sequence[Spread]) -> list[str]:
    few = [spread.objective + " (best mean)" * (spread is spreads[0]) for spread in spreads if spread.is_too_few]
    return [f"{_say_labels(few)} {'has' if len(few) == 1 else 'have'} too few replicates"] if few else []


def _say_absent(comparison: ComparisonResult, spreads: Sequence[Spread]) -> list[str]:
    ranked = {spread.objective for spread in spreads}
    absent = [one.label for one in comparison.objectives if one.label not in ranked]
    return [f"{_say_labels(absent)} {'has' if len(absent) == 1 else 'have'} no score"] if absent else []


def _say_left_out(pairs: Sequence[PairVerdict], told: Sequence[PairVerdict]) -> list[str]:
    """How many pairs there are besides, where there are too many for a sentence."""
    number = len(pairs) - len(told)
    return [f"{number} more pairs are in the report's table"] if len(told) == MOST_TOLD and number else []


def _say_labels(labels: Sequence[str]) -> str:
    """Such as ``a, b and c``; of many the first."""
    more = len(labels) - _MOST_NAMED
    named = [*labels[:_MOST_NAMED], f"{more} more"] if more > 1 else list(labels)
    return " and ".join(part for part in (", ".join(named[:-1]), named[-1]) if part)


def _say_by(metric: str, pair: PairVerdict) -> str:
    assert pair.difference is not None, "what is shown has a difference"
    by = f"{format_difference(metric, pair.difference.mean)} {unit_of_difference(metric)}"
    return f"{pair.behind} by {by} ({_say_interval(metric, pair)})"


def _say_interval(metric: str, pair: PairVerdict) -> str:
    if pair.difference is None:
        return "one test row" if pair.num_rows == 1 else "too few replicates"
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


def say_notes(comparison: ComparisonResult, pairs: Sequence[PairVerdict], rows: Mapping[str, Rows]) -> list[str]:
    """What a reader must know to weigh the sentence; ``rows``: of the runs whose test rows are known."""
    metric = comparison.primary_metric
    notes = [f"Primary metric: {describe_metric(metric)} on {set_of(metric)}. All other metrics are descriptive."]
    notes.append(
        "Controlled: same towers, augmentation, resolution and data; only what belongs to the objective differs."
        if comparison.mode == "controlled"
        else "Recipe: each objective with its paper's settings; differences are those of whole recipes."
    )
    if untuned := [one.label for one in comparison.objectives if not one.tuned]:
        notes.append(f"Untuned (nothing was searched): {', '.join(untuned)}.")
    notes += [words for one in comparison.objectives if (words := _say_failed_search(comparison, one.label))]
    notes += [words for one in comparison.objectives if (words := _say_untrained(comparison, one.label))]
    notes += [
        _say_without_part(trial)
        for trial in comparison.replicates
        if trial.status in ("failed", "stopped") or (trial.status == "finished" and metric not in trial.scores)
    ]
    return [*notes, *_say_rows(comparison, pairs, rows)]


def _say_failed_search(comparison: ComparisonResult, label: str) -> str:
    searched = comparison.searched(label)
    failed = sum(trial.status == "failed" for trial in searched)
    return f"{label}: {failed} of {len(searched)} search trials failed." if failed else ""


def _say_untrained(comparison: ComparisonResult, label: str) -> str:
    """Budget that taught nothing: an unlucky setting may be judged on weights that hardly moved."""
    ledgers = [
        trial.ledger for trial in comparison.replicates if (trial.objective, trial.status) == (label, "finished")
    ]
    left_out = sum(ledger.get("left_out", 0) for ledger in ledgers)
    share = left_out / max(sum(ledger.get("expected", 0) for ledger in ledgers), 1)
    if share < _LITTLE:
        return ""
    return f"{label}: {100 * share:.0f} % of its replicates' samples were in steps left out (not finite, or a spike)."


def _say_without_part(trial: TrialResult) -> str:
    why = f" ({trial.reason})" if trial.reason else ", without the primary metric" * (trial.status == "finished")
    return f"{trial.objective}, replicate {trial.replicate}, has no part: {trial.status}{why}."


def _say_rows(comparison: ComparisonResult, pairs: Sequence[PairVerdict], known: Mapping[str, Rows]) -> list[str]:
    """What intervals count."""
    if any(pair.num_rows == 1 for pair in pairs):
        return ["No interval: there is one test row, which does not show how far rows differ."]
    judged = [pair for pair in pairs if pair.difference is not None]
    if any(not pair.num_rows for pair in judged):
        return [f"Intervals are over replicates alone: {_say_no_rows(comparison, known)}."]
    rows = max((pair.num_rows for pair in judged), default=0)
    return [f"Intervals are over replicates and {rows:,} test rows together."] if rows else []


def _say_no_rows(comparison: ComparisonResult, known: Mapping[str, Rows]) -> str:
    numbers = [known[trial.run][0] for trial in comparison.replicates if trial.run in known]
    if any(not np.array_equal(number_N, numbers[0]) for number_N in numbers):
        return "replicates were judged on different test rows (some could not be read, or the set changed)"
    return "what single test rows got is not known for this metric"
