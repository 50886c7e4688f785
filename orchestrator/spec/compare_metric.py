"""The score that decides a comparison: which there is for every objective, and what a search selects by instead."""

from difflib import get_close_matches

from orchestrator.errors import PlanError
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_scores import AskedFacts, MetricName, say_names, score_names

VALIDATION_SCORE = "validation_quality"
"""Of the linear probe: its score on validation rows, which choose its C and are no test rows."""

_FORM = "eval/<set>/<probe>/<target>/<score>"
_CLOSE = 0.8


def resolve_metric(spec: CompareSpec, asked: AskedFacts) -> MetricName:
    """The primary metric, which every objective has.

    Raises:
        PlanError: no such score, or one that an objective lacks; says the nearest, and all that there are.
    """
    name = spec.primary_metric
    prefix, *parts = name.split("/")
    own = {
        entry.label: score_names(entry.label, entry.objective, spec.run.evaluation, asked) for entry in spec.objectives
    }
    first, *others = own.values()
    shared = [one for one in first if all(one in names for names in others)]
    if prefix != "eval" or len(parts) != 4:
        what = "a loss is on a scale of the objective's own" if name.endswith("loss") else "this is none"
        raise PlanError(f"primary_metric: {name}: {what}; wanted {_FORM}, one of: {say_names(shared)}")
    metric = MetricName(*parts)
    if metric.set not in asked.targets:
        sets = ", ".join(asked.targets) or "none (name some in run.evaluation.sets)"
        raise PlanError(f"primary_metric: {name}: no evaluation set '{metric.set}'; there are: {sets}")
    for label, names in own.items():
        if metric not in names:
            near = get_close_matches(name, map(str, shared), n=1, cutoff=_CLOSE)
            meant = f"; did you mean {near[0]}?" if near else ";"
            raise PlanError(
                f"primary_metric: {name}: objective '{label}' has no such score{meant} All objectives have: "
                f"{say_names(shared)}"
            )
    return metric


def search_metric(spec: CompareSpec, metric: MetricName, asked: AskedFacts) -> MetricName:
    """What a search selects by: the linear probe on validation rows of the same set, of the same target if it has one.

    Raises:
        PlanError: the linear probe is not asked for, or the set has no targets to fit it to.
    """
    if "linear_probe" not in spec.run.evaluation.probes:
        raise PlanError(
            "search selects by the linear probe's score on validation rows; add linear_probe to run.evaluation.probes"
        )
    if not asked.targets[metric.set]:
        raise PlanError(
            f"search selects by the linear probe's score on validation rows, but evaluation set '{metric.set}' has "
            f"captions and no targets to fit it to; take a primary_metric of a set with targets, or leave search out"
        )
    target = "all" if metric.probe == "retrieval" else metric.target
    return MetricName(metric.set, "linear_probe", target, VALIDATION_SCORE)
