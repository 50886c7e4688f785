"""The table holds what a job can name, and every objective says what the loop must know."""

from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import columns
from orchestrator.errors import PlanError
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.objective import Objective, ZeroShotObjective
from orchestrator.objectives.table import build_objective, objective_class
from orchestrator.spec.installed import own_names
from orchestrator.spec.objective import CatlipSpec, ClipSpec, SiglipSpec
from tiny import build_tiny, global_batch

SPECS = {"clip": ClipSpec(name="clip"), "siglip": SiglipSpec(name="siglip"), "catlip": CatlipSpec(name="catlip")}


def build_named(name: str, build: ModelBuild) -> Objective:
    return build_objective(SPECS[name], build, np.full(5, 0.2))


def test_every_objective_that_a_job_can_name_is_tested_here() -> None:
    assert set(SPECS) == set(own_names())


@pytest.mark.parametrize("name", sorted(SPECS))
def test_an_objective_is_built_as_its_class_with_known_columns(name: str, build: ModelBuild) -> None:
    objective = build_named(name, build)
    assert type(objective) is objective_class(SPECS[name])
    assert (objective.columns, objective.contrastive) == (SPECS[name].columns, SPECS[name].contrastive)
    assert set(objective.columns) <= {columns.IMAGE, columns.TOKENS, columns.CONCEPTS}
    assert set(objective.bounds()) <= dict(objective.named_parameters()).keys()


@pytest.mark.parametrize("name", sorted(SPECS))
def test_no_parameter_has_zero_dimensions_and_all_are_fp32(name: str, build: ModelBuild) -> None:
    for parameter in build_named(name, build).parameters():
        assert parameter.ndim >= 1
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_seed_is_all_that_weights_depend_on(name: str, build: ModelBuild) -> None:
    first, second = (build_named(name, build).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_objectives_share_the_start_of_their_vision_tower(build: ModelBuild) -> None:
    clip, catlip = build_named("clip", build), build_named("catlip", build)
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(clip.vision_features(image), catlip.vision_features(image))


def test_siglip_on_clips_towers_starts_as_clip_does(build: ModelBuild) -> None:
    clip = build_named("clip", build).state_dict()
    siglip = build_objective(SiglipSpec(name="siglip", towers="clip"), build).state_dict()
    assert siglip.keys() - clip.keys() == {"logit_bias"}
    assert all(torch.equal(siglip[name], value) for name, value in clip.items() if name != "logit_scale")


def test_objectives_with_a_text_tower_classify_by_names() -> None:
    named = {name for name, spec in SPECS.items() if issubclass(objective_class(spec), ZeroShotObjective)}
    assert named == {"clip", "siglip"}


@pytest.mark.parametrize(
    ("name", "options"), [("clip", {}), ("siglip", {"towers": "siglip"}), ("siglip", {"towers": "clip"})]
)
def test_one_pass_through_the_tower_gives_both_features(name: str, options: dict[str, Any]) -> None:
    objective, image = build_tiny(name, **options).eval(), global_batch(0)["image"]
    assert isinstance(objective, ZeroShotObjective)
    passes = []
    blocks = next(module for module in objective.vision.modules() if type(module).__name__.endswith("Encoder"))
    with torch.no_grad():
        expected = objective.vision_features(image), objective.image_embedding(image)
        blocks.register_forward_hook(lambda *_: passes.append(1))
        found = objective.pooled_and_embedding(image)
    assert passes == [1]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


class _NoObjective(ClipSpec):
    implementation = "orchestrator.spec.presets:ModelSize"


class _NowhereInstalled(ClipSpec):
    implementation = "package_that_is_not_here.code:Objective"


@pytest.mark.parametrize(
    ("spec", "words"), [(_NoObjective, "no subclass of"), (_NowhereInstalled, "install its package on every node")]
)
def test_an_implementation_that_does_not_load_is_refused_by_name(spec: type[ClipSpec], words: str) -> None:
    with pytest.raises(PlanError, match=rf"{spec.implementation}.*{words}"):
        objective_class(spec)
