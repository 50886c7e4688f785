"""What tables say of trials."""

from comparisons import METRIC, comparison, trial
from orchestrator.evaluation.comparison import ObjectiveEntry
from orchestrator.report.tables import score_table, search_table


def test_a_search_says_how_many_of_its_trials_were_judged() -> None:
    made = comparison({"a": [0.5], "b": [0.6]})
    statuses = {"a": ["finished", "stopped"], "b": ["finished", "failed"]}
    searched = tuple(
        trial(label, i, None, phase="search", status=status)
        for label, own in statuses.items()
        for i, status in enumerate(own)
    )
    objectives = tuple(ObjectiveEntry(label=label, tuned=True, num_search_trials=2) for label in statuses)
    made = made.model_copy(update={"trials": made.trials + searched, "objectives": objectives})
    assert [row[1] for row in search_table(made).rows] == ["2", "1 of 2 judged"]


def test_scores_of_several_sets_are_told_apart() -> None:
    own = METRIC.replace("scenes-eval", "imagenet")
    alone = [trial("a", 0, 0.5)]
    both = [trial("a", 0, None, scores={METRIC: 0.5, own: 0.25})]
    made = comparison({"a": [0.5], "b": [0.6]})
    found = [[row.words for row in score_table(made, trials).rest] for trials in (alone, both)]
    assert found == [[], ["imagenet · linear probe, shape: accuracy"]]
    (primary,) = score_table(made, both).main
    assert primary.words == "scenes-eval · linear probe, shape: accuracy"
    (primary,) = score_table(made, alone).main
    assert primary.words == "linear probe, shape: accuracy"
