"""What Prometheus finds at a job that runs."""

import re

from orchestrator.runs.pretrain import PretrainResult
from orchestrator.tracking.metrics import METRICS
from orchestrator.tracking.prometheus import prometheus_name


def test_a_run_is_scraped_while_it_trains(clip_result: PretrainResult, clip_pages: list[str]) -> None:
    line = rf'^(\w+)\{{[^}}]*run="{clip_result.plan.name}"[^}}]*\}} (\S+)$'
    values = dict(re.findall(line, clip_pages[-1], re.MULTILINE))
    assert any("samples_per_s" in name and float(value) > 0 for name, value in values.items()), clip_pages[-1]
    shown = {name for name in values if name.startswith("orchestrator_")}
    assert shown & {prometheus_name(row) for row in METRICS}, "the names that the dashboard's queries are held against"
