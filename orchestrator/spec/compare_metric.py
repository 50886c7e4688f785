"""The score that decides a comparison: which there is for every objective, and what a search selects by instead."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.errors import PlanError
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.objective import ObjectiveSection

VALIDATION_SCORE = "validation_quality"
"""Of the linear probe: its score on validation rows, which choose its C and are no test rows."""

_FORM = "eval/<set>/<probe>/<target>/<score>"
_GROUPS = ("named", "unnamed", "all")
_IMAGE_PROBES = ("linear_probe", "nearest_neighbours", "few_shot")
_DIRECTIONS = ("image_to_text", "text_to_image")
_LOWER_IS_BETTER = ("mean_rank", "median_rank")


class MetricName(NamedTuple):
    """The parts of an evaluation metric's name."""

    set: str
    probe: str
    target: str
    """Of the set, a direction of retrieval, or a group of targets."""
    score: str

    def __str__(self) -> str:
        return "/".join(("eval", *self))

    @property
    def higher_is_better(self) -> bool:
        """All scores but ranks."""
        return self.score not in _LOWER_IS_BETTER


def resolve_metric(spec: CompareSpec, targets: Mapping[str, Sequence[str]]) -> MetricName:
    """The primary metric, which every objective has.

    Args:
        targets: of each evaluation set, by its name in metrics.

    Raises:
        PlanError: no such score, or one that an objective lacks; says which all have.
    """
    name = spec.primary_metric
    prefix, *parts = name.split("/")
    if prefix != "eval" or len(parts) != 4:
        what = "a loss is on a scale of the objective's own" if name.endswith("loss") else "this is none"
        raise PlanError(f"primary_metric: {name}: {what}; wanted {_FORM}, with one of {_shared(spec)}")
    metric = MetricName(*parts)
    if metric.set not in targets:
        sets = ", ".join(targets) or "none (name some in run.evaluation.sets)"
        raise PlanError(f"primary_metric: {name}: no evaluation set '{metric.set}'; there are: {sets}")
    for entry in spec.objectives:
        if metric.probe not in probe_names(entry.objective, spec.run.evaluation):
            raise PlanError(
                f"primary_metric: {name}: objective '{entry.label}' has no {metric.probe}; probes that all have: "
                f"{_shared(spec)}"
            )
    known = _DIRECTIONS if metric.probe == "retrieval" else (*targets[metric.set], *_GROUPS)
    if metric.target not in known:
        raise PlanError(f"primary_metric: {name}: no target '{metric.target}'; there are: {', '.join(known)}")
    if not _fits(metric, is_mean=metric.target in _GROUPS and metric.target not in targets[metric.set]):
        raise PlanError(f"primary_metric: {name}: no score '{metric.score}' there; docs/evaluation.md lists them")
    return metric


def search_metric(spec: CompareSpec, metric: MetricName) -> MetricName:
    """What a search selects by: the linear probe on validation rows of the same set, of the same target if it has one.

    Raises:
        PlanError: the linear probe is not asked for.
    """
    if "linear_probe" not in spec.run.evaluation.probes:
        raise PlanError(
            "search selects by the linear probe's score on validation rows; add linear_probe to run.evaluation.probes"
        )
    target = "all" if metric.probe == "retrieval" else metric.target
    return MetricName(metric.set, "linear_probe", target, VALIDATION_SCORE)


def probe_names(objective: ObjectiveSection, evaluation: EvaluationSpec) -> list[str]:
    """Probes that judge an objective, as metrics name them: which features it has follows from what it reads."""
    has_text = objective.reads_captions
    names: list[str] = []
    for probe in evaluation.probes:
        if probe in _IMAGE_PROBES:
            names += [probe, f"{probe}.embedding"] if has_text else [probe]
        elif has_text:
            names.append(probe)
        elif probe == "zero_shot" and objective.reads_concepts:
            names.append("zero_shot.synset_rows")
    return names


def _fits(metric: MetricName, is_mean: bool) -> bool:
    score = metric.score.removeprefix("mean_") if is_mean else metric.score
    if metric.probe == "retrieval":
        return score.startswith("recall_at_") or score in _LOWER_IS_BETTER
    if is_mean and not metric.score.startswith("mean_accuracy"):
        return False
    if metric.probe.startswith("few_shot"):
        return score.startswith("accuracy_") and score.endswith("_shot")
    return score in ("accuracy", "top5_accuracy", "mean_average_precision")


def _shared(spec: CompareSpec) -> str:
    """Probes that all objectives have."""
    of_each = [probe_names(entry.objective, spec.run.evaluation) for entry in spec.objectives]
    return ", ".join(name for name in of_each[0] if all(name in names for names in of_each)) or "none"
