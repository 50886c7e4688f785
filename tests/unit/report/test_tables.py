"""What tables say of trials."""

from comparisons import comparison, trial
from orchestrator.evaluation.comparison import ObjectiveEntry
from orchestrator.report.tables import search_table


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
