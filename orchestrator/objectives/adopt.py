"""Weights under `transformers`' names as those of an objective: what its ``export`` gave away, taken back."""

from collections.abc import Mapping

from torch import Tensor

from orchestrator.errors import ModelSourceError
from orchestrator.objectives.objective import Objective

_MOST_NAMES = 8  # shown in a message


def adopt_weights(objective: Objective, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Every parameter of ``objective``, by its own name.

    Raises:
        ModelSourceError: a parameter that ``state`` lacks or holds in another shape, or a tensor that no parameter
            takes; names the keys.
    """
    adopted: dict[str, Tensor] = {}
    taken: set[str] = set()
    problems = []
    for name, parameter in objective.named_parameters():
        given = find_weights(name, state)
        if given is None:
            problems.append(f"{name} is missing")
        elif not fits(state[given], parameter):
            problems.append(f"{given} is {list(state[given].shape)}, wanted {list(parameter.shape)}")
        else:
            taken.add(given)
            adopted[name] = state[given].reshape(parameter.shape)  # a scalar has one dimension here, none there
    problems += [f"{key} has no place" for key in state if key not in taken and not problems]
    if problems:
        more = f"; and {len(problems) - _MOST_NAMES} more" if len(problems) > _MOST_NAMES else ""
        raise ModelSourceError(f"{source} does not fit its towers: {'; '.join(problems[:_MOST_NAMES])}{more}")
    return adopted


def fits(weights: Tensor, parameter: Tensor) -> bool:
    """Whether they are of one shape, but that a scalar may have one dimension or none."""
    return weights.shape == parameter.shape or (parameter.dim() <= 1 and weights.numel() == parameter.numel())


def find_weights(parameter: str, state: Mapping[str, Tensor]) -> str | None:
    """The name in ``state`` of an objective's parameter; none: it is not there."""
    return next((name for name in names_in_a_model(parameter) if name in state), None)


def names_in_a_model(parameter: str) -> tuple[str, ...]:
    """What a whole model may call a parameter of an objective: the more usual name first."""
    tower, _, rest = parameter.partition(".")
    if tower not in ("vision", "text"):
        return (parameter,)
    inner = f"{tower}_model.{rest}"
    return (rest, inner) if rest.startswith((f"{tower}_model.", "visual_projection", "text_projection")) else (inner,)
