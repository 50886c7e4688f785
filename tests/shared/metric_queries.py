"""What dashboard and alerts ask of Prometheus."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).parents[2] / "infra" / "compose"
_METRIC = re.compile(r"\b(?:orchestrator|ray)_[a-z0-9_]+")


def alerts() -> list[dict[str, Any]]:
    """Every rule."""
    groups = yaml.safe_load((COMPOSE / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """That of runs."""
    document: dict[str, Any] = json.loads((COMPOSE / "grafana" / "dashboards" / "runs.json").read_text())
    return document


def queries() -> list[str]:
    """All expressions of both."""
    shown = dashboard()
    found = [target["expr"] for panel in shown["panels"] for target in panel["targets"]]
    found += [variable["query"] for variable in shown["templating"]["list"]]
    return found + [rule["expr"] for rule in alerts()]


def metrics_in(text: str) -> set[str]:
    """Names of metrics, ours and Ray's."""
    return set(_METRIC.findall(text))
