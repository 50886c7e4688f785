"""What Prometheus finds at a job that runs."""

import re

from metric_queries import metrics_in, queries
from orchestrator.runs.pretrain import PretrainResult

NEEDS_AN_EVENT = {"orchestrator_train_skipped_samples"}  # a bad sample: the scenes have none, so no reason has a count
"""Asked for by dashboard or alerts, and on no page of a healthy run."""


def test_a_run_shows_what_dashboard_and_alerts_ask_for_while_it_trains(
    clip_result: PretrainResult, clip_pages: list[str]
) -> None:
    line = rf'^(\w+)\{{[^}}]*run="{clip_result.plan.name}"[^}}]*\}} (\S+)$'
    values = dict(re.findall(line, clip_pages[-1], re.MULTILINE))
    asked = {name for name in metrics_in(" ".join(queries())) if name.startswith("orchestrator_")}
    assert len(asked) > len(NEEDS_AN_EVENT)
    assert asked - values.keys() == NEEDS_AN_EVENT, clip_pages[-1]
    assert float(values["orchestrator_train_samples_per_s"]) > 0
