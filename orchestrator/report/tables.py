"""A comparison's tables, as text that is ready to be shown."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.evaluation.comparison import ComparisonResult, ObjectiveEntry, TrialResult
from orchestrator.evaluation.metric_words import (
    describe_metric,
    format_difference,
    format_score,
    is_score,
    set_of,
    unit_of_difference,
)
from orchestrator.evaluation.objective_pairs import PairVerdict
from orchestrator.evaluation.results import split_part

_GROUPS = ("all", "named", "unnamed")
_LEDGER_ORDER = (
    "expected",
    "trained_once",
    "inherited",
    "repeated",
    "skipped",
    "substituted",
    "left_out",
    "filtered",
    "missing",
    "unplanned",
)
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
MISSING = "–"


@dataclass(frozen=True)
class ScoreCell:
    """The mean over replicates, and their least and greatest where there are several."""

    mean: str
    spread: str


@dataclass(frozen=True)
class ScoreRow:
    """One metric."""

    words: str
    metric: str
    is_primary: bool
    cells: tuple[ScoreCell, ...]


@dataclass(frozen=True)
class ScoreTable:
    """Metrics by objectives, baselines behind them."""

    headings: tuple[str, ...]
    main: tuple[ScoreRow, ...]
    """The primary metric, means over targets, recalls."""
    split: tuple[ScoreRow, ...]
    """Of classes that the concept vocabulary holds, and of those that it does not."""
    rest: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class Table:
    """Any other table: the first column names the row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def score_table(comparison: ComparisonResult, replicates: Sequence[TrialResult]) -> ScoreTable:
    """All scores of the end, and where they are not all there a dash."""
    columns = [
        (one.label, [trial.scores for trial in replicates if trial.objective == one.label])
        for one in comparison.objectives
    ]
    columns += [(f"{one.objective} (baseline)", [one.scores]) for one in comparison.baselines]
    names = {name for _, runs in columns for scores in runs for name in scores if is_score(name)}
    primary, has_several_sets = comparison.primary_metric, len({set_of(name) for name in names}) > 1
    rows = [
        ScoreRow(
            f"{set_of(name)} · {describe_metric(name)}" if has_several_sets else describe_metric(name),
            name,
            name == primary,
            tuple(_score_cell(name, runs) for _, runs in columns),
        )
        for name in sorted(names, key=lambda name: (name != primary, _by_number(name)))
    ]
    split = [row for row in rows if split_part(row.metric)[1]]
    main = [row for row in rows if row not in split and (row.is_primary or _is_main(row.metric))]
    rest = [row for row in rows if row not in split and row not in main]
    return ScoreTable(tuple(label for label, _ in columns), tuple(main), tuple(split), tuple(rest))


def _by_number(name: str) -> list[str | int]:
    """A key that puts recall at 5 before recall at 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def trial_table(comparison: ComparisonResult, trials: Sequence[TrialResult]) -> Table:
    """What each trial's budget bought."""
    headings = (
        "run", "status", "steps", "samples", "FLOPs", "steps, s", "data wait, s", "evaluation, s", "wall, s",
        "device, s", "samples/s", "attempts", "primary metric",
    )  # fmt: skip
    return Table(headings, tuple(_trial_row(comparison, trial) for trial in trials))


def ledger_table(trials: Sequence[TrialResult]) -> Table | None:
    """Counts of samples, known ones first; none where no trial has a ledger."""
    known = {name for trial in trials for name in trial.ledger}
    names = [name for name in _LEDGER_ORDER if name in known] + sorted(known - set(_LEDGER_ORDER))
    if not names:
        return None
    rows = [(trial.run, *(f"{trial.ledger.get(name, 0):,}" for name in names)) for trial in trials if trial.ledger]
    return Table(("run", *(name.replace("_", " ") for name in names)), tuple(rows))


def say_duplicates(comparison: ComparisonResult, trials: Sequence[TrialResult]) -> str:
    """The share of duplicate captions in a global batch, of each objective that reads captions; empty: of none."""
    shares = {
        one.label: [
            trial.duplicate_caption_fraction
            for trial in trials
            if trial.objective == one.label and trial.duplicate_caption_fraction is not None
        ]
        for one in comparison.objectives
    }
    return ", ".join(f"{label} {100 * sum(own) / len(own):.1f} %" for label, own in shares.items() if own)


def search_table(comparison: ComparisonResult) -> Table:
    """What was searched for each objective, and what was chosen."""
    rows = [
        (
            one.label,
            _say_search(comparison, one) if one.tuned else "untuned",
            ", ".join(f"{key} = {value}" for key, value in one.chosen.items()) or MISSING,
            f"{one.prepare_s:,.0f} s",
        )
        for one in comparison.objectives
    ]
    return Table(("objective", "search trials", "chosen", "own preparation"), tuple(rows))


def _say_search(comparison: ComparisonResult, one: ObjectiveEntry) -> str:
    """How many trials its settings were chosen from; those that failed, and those to come, were not judged."""
    judged = sum(trial.status in ("finished", "stopped") for trial in comparison.searched(one.label))
    return str(judged) if judged == one.num_search_trials else f"{judged} of {one.num_search_trials} judged"


def pair_table(comparison: ComparisonResult, pairs: Sequence[PairVerdict]) -> Table:
    """Every pair, with its difference and p values."""
    metric = comparison.primary_metric
    headings = (
        "pair", f"{unit_of_difference(metric)} ahead", "95 % interval", "p", "p, Holm", "replicates", "test rows",
        "shown",
    )  # fmt: skip
    return Table(headings, tuple(_pair_row(metric, pair) for pair in pairs))


def _pair_row(metric: str, pair: PairVerdict) -> tuple[str, ...]:
    found = pair.difference
    judged = [MISSING] * 4
    if found is not None:
        mean, low, high = (format_difference(metric, value) for value in (found.mean, found.low, found.high))
        judged = [mean, f"{low} to {high}", f"{found.p_value:.4f}", f"{pair.p_holm:.4f}"]
    rows = f"{pair.num_rows:,}" if pair.num_rows else MISSING
    name = f"{pair.ahead} against {pair.behind}"
    return name, *judged, str(pair.num_replicates), rows, "yes" if pair.is_shown else "no"


def _trial_row(comparison: ComparisonResult, trial: TrialResult) -> tuple[str, ...]:
    cost, metric = trial.cost, comparison.primary_metric
    return (
        trial.run,
        trial.status + (f": {trial.reason}" if trial.reason else ""),
        f"{trial.step:,} of {trial.steps:,}",
        f"{cost.samples:,}",
        _with_prefix(cost.flops),
        *(f"{seconds:,.1f}" for seconds in (cost.step_s, cost.data_wait_s, cost.evaluation_s, cost.wall_s)),
        f"{cost.device_s:,.1f}",
        MISSING if cost.samples_per_s is None else f"{cost.samples_per_s:,.0f}",
        str(cost.attempts),
        format_score(metric, trial.scores[metric]) if metric in trial.scores else MISSING,
    )


def _with_prefix(value: float) -> str:
    """Such as ``16.3 T``."""
    place = min(max(int(math.log10(value)) // 3, 0), len(_PREFIXES) - 1) if value else 0
    return f"{value / 1000**place:.3g} {_PREFIXES[place]}".rstrip()


def _score_cell(name: str, runs: Sequence[dict[str, float]]) -> ScoreCell:
    found = [scores[name] for scores in runs if name in scores]
    if not found:
        return ScoreCell(MISSING, "")
    low, high = format_score(name, min(found)), format_score(name, max(found))
    spread = "" if len(found) < 2 else f"{low.removesuffix(' %')} to {high.removesuffix(' %')}"
    return ScoreCell(format_score(name, sum(found) / len(found)), spread)


def _is_main(name: str) -> bool:
    _, _, probe, target, score = name.split("/")
    return target in _GROUPS or (probe == "retrieval" and score.startswith("recall"))
