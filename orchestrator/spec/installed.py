"""Objectives of other packages, found by their entry point once a job names an objective that is not ours.

A package says in its pyproject.toml which class is the spec of its objective:

    [project.entry-points."vl_orchestrator.objectives"]
    mine = "my_package.spec:MineSpec"

The spec is imported wherever the job is read; what ``implementation`` names, on workers only.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from orchestrator.spec.objective import ClipSpec, ObjectiveSection, ObjectiveSpec

GROUP = "vl_orchestrator.objectives"

_OWN_SPECS: tuple[type[ObjectiveSection], ...] = get_args(get_args(ObjectiveSpec)[0])
_DECLARED = ("implementation", "columns", "contrastive")


def own_names() -> list[str]:
    """Objectives of this package."""
    return [get_args(spec.model_fields["name"].annotation)[0] for spec in _OWN_SPECS]


def installed_names() -> list[str]:
    """Objectives that other installed packages bring."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find_installed(name: str) -> type[ObjectiveSection] | None:
    """The spec class that another package installs under ``name``; None: there is none.

    Raises:
        ValueError: it does not load, or is no spec of an objective; says which package and what is missing.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        return None
    if len({point.value for point in points}) > 1:
        packages = " and ".join(_package(point) for point in points)
        raise ValueError(f"objective '{name}' is installed by {packages}; uninstall one of them")
    try:
        spec = points[0].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"objective '{name}' of {_package(points[0])} does not load: {error}") from error
    _check(spec, name, points[0])
    return spec


def validate_installed(value: Any) -> ObjectiveSection | None:
    """``value``, a mapping whose ``name`` is not one of ours, as the spec that a package installs under that name."""
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name in own_names():
        return None
    spec = find_installed(name)
    if spec is None:
        return None
    # One of ours beside it makes it a union, so that errors carry the name in their path as they do for ours.
    union: Any = Annotated[ClipSpec | spec, Field(discriminator="name")]
    installed: ObjectiveSection = TypeAdapter(union).validate_python(value)
    return installed


def _check(spec: Any, name: str, point: EntryPoint) -> None:
    where = f"objective '{name}' of {_package(point)}: {point.value}"
    if not (isinstance(spec, type) and issubclass(spec, ObjectiveSection)):
        raise ValueError(f"{where} is no subclass of orchestrator.spec.objective.ObjectiveSection")
    if missing := [key for key in _DECLARED if not hasattr(spec, key)]:
        raise ValueError(f"{where} does not say {', '.join(missing)}")
    if get_args(spec.model_fields["name"].annotation) != (name,):
        raise ValueError(f'{where} does not declare name: Literal["{name}"]')


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist else point.value
