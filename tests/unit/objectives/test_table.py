"""The table holds what a job can name, and every objective says what the loop must know."""

from typing import get_args

import numpy as np
import pytest
import torch

from orchestrator import columns
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.objective import Objective, ZeroShotObjective
from orchestrator.objectives.table import OBJECTIVES, build_objective
from orchestrator.spec.objective import CatlipSpec, ClipSpec, ObjectiveSpec

SPECS = {"clip": ClipSpec(name="clip"), "catlip": CatlipSpec(name="catlip")}


def build_named(name: str, build: ModelBuild) -> Objective:
    return build_objective(SPECS[name], build, np.full(5, 0.2))


def test_the_table_names_what_a_job_can_name() -> None:
    union = get_args(get_args(ObjectiveSpec)[0])
    assert set(OBJECTIVES) == {get_args(spec.model_fields["name"].annotation)[0] for spec in union}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_is_built_as_its_class_with_known_columns(name: str, build: ModelBuild) -> None:
    objective = build_named(name, build)
    assert type(objective) is OBJECTIVES[name]
    assert set(objective.columns) <= {columns.IMAGE, columns.TOKENS, columns.CONCEPTS}
    assert set(objective.bounds()) <= dict(objective.named_parameters()).keys()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_parameter_has_zero_dimensions_and_all_are_fp32(name: str, build: ModelBuild) -> None:
    for parameter in build_named(name, build).parameters():
        assert parameter.ndim >= 1
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_seed_is_all_that_weights_depend_on(name: str, build: ModelBuild) -> None:
    first, second = (build_named(name, build).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_objectives_share_the_start_of_their_vision_tower(build: ModelBuild) -> None:
    clip, catlip = build_named("clip", build), build_named("catlip", build)
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(clip.vision_features(image), catlip.vision_features(image))


def test_only_clip_classifies_by_names() -> None:
    assert {name for name, kind in OBJECTIVES.items() if issubclass(kind, ZeroShotObjective)} == {"clip"}
