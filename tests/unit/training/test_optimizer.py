"""Which parameters are decayed, and that none is lost or counted twice."""

import numpy as np
import pytest
import torch

from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.job import OptimizerSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.training.optimizer import build_optimizer, parameter_groups

TOKENS = TokenLayout(num_tokens=64, context=8, begin_id=1, end_id=3, pad_id=0)
BUILD = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=TOKENS)


def objectives() -> dict[str, Objective]:
    return {
        "clip": build_objective(ClipSpec(name="clip"), BUILD),
        "catlip": build_objective(CatlipSpec(name="catlip"), BUILD, np.full(5, 0.2)),
    }


@pytest.mark.parametrize("name", ["clip", "catlip"])
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    objective = objectives()[name]
    grouped = [id(parameter) for group in parameter_groups(objective, 0.2) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in objective.parameters())


@pytest.mark.parametrize("name", ["clip", "catlip"])
def test_norms_biases_scalars_and_the_class_embedding_are_not_decayed_and_all_else_is(name: str) -> None:
    objective = objectives()[name]
    name_of = {id(parameter): key for key, parameter in objective.named_parameters()}
    for group in parameter_groups(objective, 0.2):
        for parameter in group["params"]:
            key = name_of[id(parameter)]
            is_exempt = "norm" in key or "layrnorm" in key or key.endswith((".bias", "logit_scale", "class_embedding"))
            assert group["weight_decay"] == (0.0 if is_exempt else 0.2), key


def test_groups_know_their_tower() -> None:
    clip, catlip = objectives()["clip"], objectives()["catlip"]
    assert {group["tower"] for group in parameter_groups(clip, 0.2)} == {"vision", "text", "head"}
    assert {group["tower"] for group in parameter_groups(catlip, 0.2)} == {"vision", "head"}
    (head,) = [group for group in parameter_groups(clip, 0.2) if group["tower"] == "head"]
    assert head["params"][0] is clip.logit_scale


def test_frozen_parameters_are_left_out() -> None:
    objective = objectives()["clip"]
    objective.text.requires_grad_(False)
    assert {group["tower"] for group in parameter_groups(objective, 0.2)} == {"vision", "head"}


def test_adamw_decays_apart_from_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.full((2, 2), 4.0))
    weight.grad = torch.zeros(2, 2)
    spec = OptimizerSpec(learning_rate=0.1)
    build_optimizer([{"params": [weight], "weight_decay": 0.5}], spec).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 4.0 * (1 - 0.1 * 0.5)))
