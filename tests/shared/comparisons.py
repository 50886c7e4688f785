"""Comparisons as jobs and as records, for what plans and reads them."""

from typing import Any

from orchestrator.evaluation.comparison import ComparisonResult, ObjectiveEntry, TrialResult
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.targets import TargetSpec

COMPARE_JOB: dict[str, Any] = {
    "kind": "compare",
    "name": "which",
    "mode": "controlled",
    "run": {
        "data": {"kind": "synthetic"},
        "model": {"preset": "vit_nano_32"},
        "batch": {"global_size": 32},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": {"sets": ["scenes/eval"]},
    },
    "objectives": [
        {"label": "clip", "objective": {"name": "clip"}},
        {"label": "siglip", "objective": {"name": "siglip", "towers": "clip"}},
    ],
    "replicates": 1,
    "budget": {"steps": 8},
    "primary_metric": "eval/scenes-eval/linear_probe/shape/accuracy",
}
"""The smallest: two objectives, one replicate of each, nothing searched."""
ASKED = AskedFacts({"scenes-eval": {"shape": TargetSpec(classes=("cube", "ball"), named_in_captions=True)}})
"""What its evaluation set asks."""
METRIC = "eval/scenes-eval/linear_probe/shape/accuracy"


def trial(objective: str, replicate: int, score: float | None, **fields: Any) -> TrialResult:
    """A finished replicate, unless ``fields`` say otherwise."""
    run = f"{objective}-{replicate}"
    values = {"status": "finished", "phase": "verdict", "steps": 100, "step": 100, "run_uri": f"/runs/{run}"}
    scores = {} if score is None else {METRIC: score}
    return TrialResult(
        **{"objective": objective, "replicate": replicate, "run": run, "scores": scores, **values, **fields}
    )


def comparison(scores: dict[str, list[float]], **fields: Any) -> ComparisonResult:
    """One replicate for each score of an objective."""
    values: dict[str, Any] = {
        "name": "clip-against-catlip",
        "mode": "controlled",
        "primary_metric": METRIC,
        "budget": "20,000 samples",
        "objectives": tuple(ObjectiveEntry(label=label, tuned=True) for label in scores),
        "trials": tuple(trial(label, i, score) for label, own in scores.items() for i, score in enumerate(own)),
    }
    return ComparisonResult(**{**values, **fields})
