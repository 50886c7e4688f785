"""What a comparison's records show, and what they do not."""

import numpy as np
import pytest

from comparisons import METRIC, comparison, trial
from orchestrator.evaluation.comparison import ObjectiveEntry
from orchestrator.evaluation.verdict import Rows, find_verdict

CLEAR = {"catlip": [0.50, 0.51, 0.52], "clip": [0.60, 0.611, 0.619]}


def rows_of(scores: dict[str, list[float]], num_rows: int = 1000) -> dict[str, Rows]:
    """The first rows are hits, as many as the score says."""
    numbers = np.arange(num_rows)
    return {
        f"{label}-{i}": (numbers * 4, (numbers < round(score * num_rows)).astype(float))
        for label, own in scores.items()
        for i, score in enumerate(own)
    }


def test_a_clear_difference_is_said_with_its_interval():
    verdict = find_verdict(comparison(CLEAR), {})
    assert verdict.sentence == (
        "clip is ahead of catlip by 10.0 points (9.8 to 10.2): 95 % interval, 3 replicates paired by seed."
    )
    assert [spread.objective for spread in verdict.spreads] == ["clip", "catlip"]
    assert any(note.startswith("Controlled") for note in verdict.notes)
    assert any("over replicates alone" in note for note in verdict.notes)


def test_test_rows_count_when_they_are_known():
    alone, together = (find_verdict(comparison(CLEAR), rows) for rows in ({}, rows_of(CLEAR)))
    assert together.pairs[0].num_rows == 1000
    assert together.pairs[0].difference.high > alone.pairs[0].difference.high
    assert any("1,000 test rows together" in note for note in together.notes)


@pytest.mark.parametrize("fault", ["other rows", "other scores", "missing"])
def test_rows_that_do_not_belong_are_not_used(fault):
    rows = rows_of(CLEAR)
    numbers, values = rows["clip-1"]
    if fault == "missing":
        del rows["clip-1"]
    else:
        rows["clip-1"] = (numbers + 1, values) if fault == "other rows" else (numbers, 1 - values)
    verdict = find_verdict(comparison(CLEAR), rows)
    assert verdict.pairs[0].num_rows == 0
    said = "judged on different test rows" if fault == "other rows" else "what single test rows got is not known"
    assert any(note.startswith("Intervals are over replicates alone") and said in note for note in verdict.notes)


def test_three_objectives_are_corrected_over_all_pairs():
    scores = {**CLEAR, "siglip": [0.59, 0.62, 0.61]}
    verdict = find_verdict(comparison(scores), {})
    assert len(verdict.pairs) == 3
    assert "Holm-corrected over 3 pairs" in verdict.sentence
    assert "clip is ahead of catlip" in verdict.sentence
    assert "no difference could be shown between clip and siglip (−" in verdict.sentence
    smallest = min(verdict.pairs, key=lambda pair: pair.p_holm)
    assert smallest.p_holm == pytest.approx(3 * smallest.difference.p_value)


def test_an_interval_beyond_zero_that_the_correction_takes_back_says_so():
    scores = {"clip": [0.60, 0.62, 0.61], "siglip": [0.585, 0.59, 0.593], "catlip": [0.58, 0.61, 0.60]}
    verdict = find_verdict(comparison(scores), {})
    (pair,) = (pair for pair in verdict.pairs if {pair.ahead, pair.behind} == {"clip", "siglip"})
    assert pair.difference.low > 0
    assert not pair.is_shown
    low, high = (100 * end for end in (pair.difference.low, pair.difference.high))
    said = f"clip and siglip ({low:.1f} to {high:.1f} by itself, p = {pair.p_holm:.2g} over all pairs)"
    assert said in verdict.sentence


def test_one_that_is_ahead_of_all_is_named_once():
    verdict = find_verdict(comparison({**CLEAR, "siglip": [0.55, 0.56, 0.57]}), {})
    assert verdict.sentence.startswith("clip is ahead of siglip by 5.0 points (")
    assert ") and of catlip by 10.0 points (9.8 to 10.2): 95 % intervals" in verdict.sentence


def test_no_difference_is_no_verdict_for_either():
    verdict = find_verdict(comparison({"clip": [0.5, 0.6, 0.55], "siglip": [0.56, 0.52, 0.58]}), {})
    assert verdict.sentence.startswith("No difference could be shown between siglip and clip (−")
    assert not verdict.pairs[0].is_shown


def test_two_replicates_show_their_spread_only():
    verdict = find_verdict(comparison({"clip": [0.5, 0.6], "siglip": [0.7, 0.71]}), {})
    assert verdict.sentence == (
        "No verdict: 2 replicates show a spread only, 3 or more give one; siglip 70.0 % to 71.0 %, "
        "clip 50.0 % to 60.0 %."
    )
    assert verdict.pairs[0].difference is None


def test_there_is_no_verdict_before_the_end():
    made = comparison(CLEAR)
    trials = (*made.trials[:-1], trial("clip", 2, None, status="running"))
    verdict = find_verdict(made.model_copy(update={"trials": trials}), {})
    assert verdict.sentence.startswith("No verdict yet: 1 of 6 replicates have not ended; clip 60.0 % to 61.1 %")


def test_what_has_no_part_is_said():
    made = comparison({"catlip": [0.5, 0.51, 0.52, 0.53], "clip": [0.6, 0.61, 0.62, 0.63]})
    lost = trial("clip", 1, None, status="failed", reason="diverged")
    trials = (*(one for one in made.trials if one.run != "clip-1"), lost, trial("clip", 9, 0.9, phase="search"))
    objectives = (ObjectiveEntry(label="catlip", tuned=False), ObjectiveEntry(label="clip", tuned=True))
    made = made.model_copy(update={"trials": trials, "objectives": objectives, "mode": "recipe"})
    verdict = find_verdict(made, {})
    assert verdict.pairs[0].num_replicates == 3
    assert "clip, replicate 1, has no part: failed (diverged)." in verdict.notes
    assert "Untuned (nothing was searched): catlip." in verdict.notes
    assert any(note.startswith("Recipe") for note in verdict.notes)
    assert "All other metrics are descriptive." in verdict.notes[0]


def test_ranks_are_better_when_they_are_lower():
    metric = "eval/scenes-eval/retrieval/image_to_text/mean_rank"
    made = comparison({"clip": [9.0, 9.1, 9.2], "siglip": [4.0, 4.2, 4.1]}, higher_is_better=False)
    trials = tuple(one.model_copy(update={"scores": {metric: one.scores[METRIC]}}) for one in made.trials)
    verdict = find_verdict(made.model_copy(update={"trials": trials, "primary_metric": metric}), {})
    assert verdict.sentence.startswith("siglip is ahead of clip by 5.0 ranks (4.")


def test_a_pair_is_ordered_by_the_replicates_that_both_finished():
    """A replicate that one of them alone finished raises its mean; it cannot turn the pair round."""
    made = comparison({"clip": [0.500, 0.501, 0.499, 0.9], "siglip": [0.520, 0.5205, 0.5195]})
    lost = trial("siglip", 3, None, status="failed", reason="diverged")
    verdict = find_verdict(made.model_copy(update={"trials": (*made.trials, lost)}), {})
    assert verdict.spreads[0].objective == "clip"  # in the mean of all its replicates
    assert verdict.sentence.startswith("siglip is ahead of clip by 2.0 points (")
    assert verdict.pairs[0].difference.low > 0


def test_who_leads_follows_from_the_pairs():
    scores = {"clip": [0.500, 0.501, 0.499, 0.9], "siglip": [0.520, 0.5205, 0.5195], "catlip": [0.4, 0.401, 0.399]}
    verdict = find_verdict(comparison(scores), {})
    assert verdict.sentence.startswith("siglip is ahead of clip by 2.0 points (")
    assert ") and of catlip by 12.0 points (" in verdict.sentence
    assert all(pair.difference.mean > 0 for pair in verdict.pairs)


BESTS = {"a": [0.70, 0.71, 0.72], "b": [0.60, 0.60, 0.61], "c": [1.0, 0.9, 0.4]}


def test_the_best_mean_stands_in_the_sentence_when_others_are_told_apart():
    sentence = find_verdict(comparison(BESTS), {}).sentence
    assert sentence.startswith("a is ahead of b by 10.7 points (9.2 to 12.1); no difference could be shown between ")
    assert (
        "between c (best mean) and a (−76.5 to 87.8), nor between c and b (−64.9 to 97.6): 95 % intervals" in sentence
    )


def test_too_few_replicates_and_no_score_are_named():
    made = comparison(BESTS | {"c": [0.95, 0.96]})
    lost = [trial("c", 2, None, status="failed"), *(trial("z", i, None, status="failed") for i in range(3))]
    objectives = (*made.objectives, ObjectiveEntry(label="z", tuned=True))
    made = made.model_copy(update={"trials": (*made.trials, *lost), "objectives": objectives})
    sentence = find_verdict(made, {}).sentence
    assert sentence.startswith("a is ahead of b by 10.7 points (9.2 to 12.1): 95 % interval, 3 replicates")
    assert sentence.endswith("; c (best mean) has too few replicates; z has no score.")


def test_what_has_too_few_replicates_does_not_hide_the_others():
    made = comparison({"a": [0.5, 0.6, 0.55], "b": [0.56, 0.52, 0.58], "c": [0.9]})
    sentence = find_verdict(made, {}).sentence
    assert sentence.startswith("No difference could be shown between b and a (−")
    assert sentence.endswith("; c (best mean) has too few replicates.")


def test_of_many_pairs_those_of_the_best_means_are_told():
    rng = np.random.default_rng(0)
    made = comparison({f"objective-{i:02d}": list(0.3 + 0.01 * i + 0.02 * rng.random(3)) for i in range(20)})
    verdict = find_verdict(made, {})
    assert len(verdict.told) == 6
    assert all(verdict.spreads[0].objective in (pair.ahead, pair.behind) for pair in verdict.told)
    assert verdict.sentence.endswith("Holm-corrected over 190 pairs; 184 more pairs are in the report's table.")
    assert len(verdict.sentence) < 650


def test_many_that_have_no_score_are_counted():
    made = comparison(CLEAR)
    labels = [f"lost-{i}" for i in range(6)]
    objectives = (*made.objectives, *(ObjectiveEntry(label=label, tuned=True) for label in labels))
    sentence = find_verdict(made.model_copy(update={"objectives": objectives}), {}).sentence
    assert sentence.endswith("; lost-0, lost-1, lost-2 and 3 more have no score.")


def test_one_test_row_gives_no_verdict():
    scores = {"a": [1.0] * 3, "b": [0.0] * 3}
    verdict = find_verdict(comparison(scores), rows_of(scores, num_rows=1))
    assert verdict.sentence.startswith("No verdict: one test row is too few to compare by; a 100.0 %")
    assert verdict.pairs[0].difference is None
    assert not verdict.pairs[0].is_shown
    assert verdict.notes[-1] == "No interval: there is one test row, which does not show how far rows differ."


def test_rounding_is_no_difference():
    sentence = find_verdict(comparison({"a": [0.1 + 0.2] * 3, "b": [0.3] * 3}), {}).sentence
    assert sentence.startswith("No difference could be shown between a and b (0.0 to 0.0): ")


def test_failed_search_trials_are_said():
    made = comparison(CLEAR)
    searched = [trial("clip", i, None, phase="search", status="failed" if i else "finished") for i in range(8)]
    verdict = find_verdict(made.model_copy(update={"trials": (*made.trials, *searched)}), {})
    assert "clip: 7 of 8 search trials failed." in verdict.notes
    assert not any(note.startswith("catlip") for note in verdict.notes)


def test_budget_that_taught_nothing_is_said():
    made = comparison(CLEAR)
    ledgers = {"clip": {"expected": 1000, "left_out": 800}, "catlip": {"expected": 1000, "left_out": 9}}
    trials = tuple(one.model_copy(update={"ledger": ledgers[one.objective]}) for one in made.trials)
    said = [note for note in find_verdict(made.model_copy(update={"trials": trials}), {}).notes if "left out" in note]
    assert said == ["clip: 80 % of its replicates' samples were in steps left out (not finite, or a spike)."]
