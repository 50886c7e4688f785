"""The objectives there are, by the name a job gives. A new one adds a line in each of the two places below."""

from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from orchestrator.models.towers import (
    ModelBuild,
    build_projected_vision_tower,
    build_text_tower,
    build_vision_tower,
)
from orchestrator.objectives.catlip import CatlipObjective
from orchestrator.objectives.clip import ClipObjective
from orchestrator.objectives.objective import Objective
from orchestrator.spec.objective import CatlipSpec, ClipSpec, ObjectiveSpec

OBJECTIVES: dict[str, type[Objective]] = {"clip": ClipObjective, "catlip": CatlipObjective}


def build_objective(
    spec: ObjectiveSpec, model: ModelBuild, concept_fraction_V: NDArray[np.float64] | None = None
) -> Objective:
    """An objective with fresh weights: fp32, on the CPU, the same for the same seed.

    ``model.tokens`` is needed for objectives that read captions, ``concept_fraction_V`` (the share of captions that
    name each concept, in the order of the vocabulary) for those that read concepts. Raises ModelSourceError for
    token ids that a text tower cannot use.
    """
    match spec:
        case ClipSpec():
            return ClipObjective(spec, build_projected_vision_tower(model), build_text_tower(model))
        case CatlipSpec():
            assert concept_fraction_V is not None, "CatLIP is built with the vocabulary's frequencies"
            return CatlipObjective(spec, build_vision_tower(model), concept_fraction_V, model.seed)
        case _:
            assert_never(spec)
