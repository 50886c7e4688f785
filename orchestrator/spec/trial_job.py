"""One run of a comparison as the pretrain job that it is: what the runs share, an objective, and its own settings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import PlanError
from orchestrator.spec.init import StartSpec
from orchestrator.spec.job import BudgetSpec, PretrainSpec, SeedSpec, TrainingSpec
from orchestrator.spec.objective import ObjectiveSection


def build_job(
    training: TrainingSpec,
    objective: ObjectiveSection,
    settings: Mapping[str, Any],
    *,
    name: str,
    experiment: str,
    seed: SeedSpec,
    budget: BudgetSpec,
    start: StartSpec | None = None,
) -> PretrainSpec:
    """The job of one run; ``settings`` by dotted key of a job file (``optimizer.learning_rate``), the last word.

    Raises:
        ValueError: a key that no pretrain job has, or a value that it does not take.
    """
    document = training.model_dump(mode="json", exclude_unset=True)
    document |= {
        "kind": "pretrain",
        "name": name,
        "experiment": experiment,
        "seed": seed.model_dump(),
        "objective": objective.model_dump(mode="json", exclude_unset=True),
        "budget": budget.model_dump(exclude_unset=True),
        "start": start.model_dump() if start else None,
    }
    for key, value in settings.items():
        _assign(document, key, value)
    try:
        return PretrainSpec.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != objective.name)
        text = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {text} (given: {first['input']!r})") from error


@contextmanager
def naming_settings(run: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Within, values that a job does not take together are a PlanError: each end of a search space was held alone."""
    try:
        yield
    except ValueError as error:
        values = ", ".join(f"{key}: {value}" for key, value in settings.items())
        raise PlanError(
            f"{run} would try {values}, which a job does not take together: {error}; narrow 'search' of its objective "
            f"so that all combinations hold"
        ) from error


def _assign(document: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    node = document
    for part in above:
        child = node.get(part)
        if not isinstance(child, dict):  # a section with all its defaults, or none
            child = node[part] = {}
        node = child
    node[last] = value
