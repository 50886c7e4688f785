"""From an objective's spec to its code: ours and that of other packages in the same way."""

from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PlanError
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.objective import Objective
from orchestrator.spec.objective import ObjectiveSection


def objective_class(spec: ObjectiveSection | type[ObjectiveSection]) -> type[Objective]:
    """What ``implementation`` of the spec names.

    Raises:
        PlanError: it does not import here, or is no Objective.
    """
    module, _, name = spec.implementation.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PlanError(
            f"{spec.implementation}, the implementation of an objective, does not load on this machine ({error}); "
            f"install its package on every node that trains"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise PlanError(f"{spec.implementation} is no subclass of orchestrator.objectives.objective.Objective")
    return found


def build_objective(
    spec: ObjectiveSection, model: ModelBuild, concept_fraction_V: NDArray[np.float64] | None = None
) -> Objective:
    """An objective with fresh weights: fp32, on the CPU, the same for the same seed.

    ``model.tokens`` is needed for objectives that read captions, ``concept_fraction_V`` (the share of captions that
    name each concept, in the order of the vocabulary) for those that read concepts. Raises ModelSourceError for
    token ids that a text tower cannot use.
    """
    return objective_class(spec).build(spec, model, concept_fraction_V)
