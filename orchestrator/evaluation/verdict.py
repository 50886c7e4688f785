"""The verdict of a comparison: which objective is ahead in the primary metric, by how much, and how sure that is.

Computed once, when every replicate has ended. Fewer than three replicates give their spread and no verdict. How pairs
of objectives are judged is in ``objective_pairs.py``, how it is said in ``verdict_words.py``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evaluation.comparison import ComparisonResult
from orchestrator.evaluation.objective_pairs import (
    PairVerdict,
    Rows,
    Spread,
    finished_replicates,
    judge_pairs,
    rank_objectives,
)
from orchestrator.evaluation.verdict_words import MOST_TOLD, say_notes, say_verdict


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows."""

    sentence: str
    notes: tuple[str, ...]
    """What a reader must know to weigh the sentence."""
    spreads: tuple[Spread, ...]
    """Best mean first."""
    pairs: tuple[PairVerdict, ...]
    told: tuple[PairVerdict, ...]
    """Those that the sentence tells, once all have ended."""


def find_verdict(comparison: ComparisonResult, rows: Mapping[str, Rows]) -> Verdict:
    """The verdict.

    Args:
        rows: by run, of the primary metric (``predictions.row_scores``), for those runs whose predictions are there.
    """
    finished = finished_replicates(comparison)
    spreads = rank_objectives(comparison, finished)
    pairs = judge_pairs(comparison, [spread.objective for spread in spreads], finished, rows)
    told = _pairs_to_tell(spreads, pairs)
    sentence = say_verdict(comparison, spreads, pairs, told)
    return Verdict(sentence, tuple(say_notes(comparison, pairs, rows)), tuple(spreads), pairs, tuple(told))


def _pairs_to_tell(spreads: Sequence[Spread], pairs: Sequence[PairVerdict]) -> list[PairVerdict]:
    """Those of the objective that is ahead in most, and where none of them is shown all that are; by who is ahead.

    Objectives with too few replicates have none: the sentence names them by themselves.
    """
    judged = [spread.objective for spread in spreads if not spread.is_too_few]
    pairs = [pair for pair in pairs if pair.ahead in judged and pair.behind in judged]
    if not pairs:
        return []
    wins = Counter(pair.ahead for pair in pairs)
    first = max(judged, key=lambda label: wins[label])
    told = [pair for pair in pairs if first in (pair.ahead, pair.behind)]
    if not any(pair.is_shown for pair in told):
        told += [pair for pair in pairs if pair.is_shown]
    return sorted(_nearest(told, judged), key=lambda pair: (-wins[pair.ahead], pair.ahead))


def _nearest(pairs: Sequence[PairVerdict], ranking: Sequence[str]) -> list[PairVerdict]:
    """The most that a sentence holds: of the shown and of the others those whose objectives have the best means."""
    by_rank = sorted(pairs, key=lambda pair: sorted((ranking.index(pair.ahead), ranking.index(pair.behind))))
    shown = [pair for pair in by_rank if pair.is_shown]
    unclear = [pair for pair in by_rank if not pair.is_shown]
    num_unclear = min(len(unclear), max(MOST_TOLD // 2, MOST_TOLD - len(shown)))
    return shown[: MOST_TOLD - num_unclear] + unclear[:num_unclear]
