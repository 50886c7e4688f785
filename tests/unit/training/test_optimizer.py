"""Which parameters are decayed, and that none is lost or counted twice."""

import numpy as np
import pytest
import torch

from orchestrator.errors import PlanError
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.training.optimizer import build_optimizer, freeze_parameters, parameter_groups, set_learning_rates

TOKENS = TokenLayout(num_tokens=64, context=8, begin_id=1, end_id=3, pad_id=0)
SPEC = OptimizerSpec(learning_rate=1.0, weight_decay=0.2)
BUILD = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=TOKENS)


def objectives() -> dict[str, Objective]:
    return {
        "clip": build_objective(ClipSpec(name="clip"), BUILD),
        "catlip": build_objective(CatlipSpec(name="catlip"), BUILD, np.full(5, 0.2)),
    }


@pytest.mark.parametrize("name", ["clip", "catlip"])
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    objective = objectives()[name]
    grouped = [id(parameter) for group in parameter_groups(objective, SPEC) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in objective.parameters())


@pytest.mark.parametrize("name", ["clip", "catlip"])
def test_norms_biases_scalars_and_the_class_embedding_are_not_decayed_and_all_else_is(name: str) -> None:
    objective = objectives()[name]
    name_of = {id(parameter): key for key, parameter in objective.named_parameters()}
    for group in parameter_groups(objective, SPEC):
        for parameter in group["params"]:
            key = name_of[id(parameter)]
            is_exempt = "norm" in key or "layrnorm" in key or key.endswith((".bias", "logit_scale", "class_embedding"))
            assert group["weight_decay"] == (0.0 if is_exempt else 0.2), key


def test_groups_know_their_tower() -> None:
    clip, catlip = objectives()["clip"], objectives()["catlip"]
    assert {group["tower"] for group in parameter_groups(clip, SPEC)} == {"vision", "text", "head"}
    assert {group["tower"] for group in parameter_groups(catlip, SPEC)} == {"vision", "head"}
    (head,) = [group for group in parameter_groups(clip, SPEC) if group["tower"] == "head"]
    assert head["params"][0] is clip.logit_scale


def rates_at(objective: Objective, step: int, **options: object) -> dict[str, float]:
    """Learning rate of each parameter that is in a group, at a step of ten."""
    spec = OptimizerSpec(learning_rate=1.0, **options)
    freeze_parameters(objective, spec)
    groups = parameter_groups(objective, spec)
    set_learning_rates(groups, spec, ScheduleSpec(kind="constant", warmup_fraction=0), (step + 0.5) / 10)
    name_of = {id(parameter): name for name, parameter in objective.named_parameters()}
    return {name_of[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_layer_decay_lowers_the_rate_by_a_factor_each_layer_from_the_head_to_the_embeddings() -> None:
    rates = rates_at(objectives()["clip"], 0, layer_decay={"vision": 0.5})
    expected = {
        "visual_projection": 1.0,
        "post_layernorm": 1.0,
        "layers.1.": 0.5,
        "layers.0.": 0.25,
        "pre_layrnorm": 0.125,
        "embeddings": 0.125,
    }
    for name, rate in rates.items():
        known = [value for part, value in expected.items() if part in name]
        assert rate == (known[0] if name.startswith("vision.") else 1.0), name
    assert set(rates.values()) == {1.0, 0.5, 0.25, 0.125}


def test_a_whole_tower_or_its_lower_layers_can_be_frozen() -> None:
    whole = rates_at(objectives()["clip"], 0, freeze={"vision": {}})
    assert {name.split(".")[0] for name in whole} == {"text", "logit_scale"}
    lower = rates_at(objectives()["clip"], 0, freeze={"vision": {"layers": 1}})
    kept = [name for name in lower if name.startswith("vision.")]
    assert kept
    assert not [name for name in kept if "embeddings" in name or "pre_layrnorm" in name or "layers.0." in name]
    assert [name for name in kept if "layers.1." in name]


def test_what_is_frozen_for_a_while_has_the_rate_zero_until_its_share_of_the_budget_is_over() -> None:
    freeze = {"text": {"until_fraction": 0.3}}
    for step, rate in ((0, 0.0), (2, 0.0), (3, 1.0), (9, 1.0)):
        rates = rates_at(objectives()["clip"], step, freeze=freeze)
        assert {value for name, value in rates.items() if name.startswith("text.")} == {rate}
        assert {value for name, value in rates.items() if not name.startswith("text.")} == {1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": {"text": {}}}, "optimizer.freeze names text; this objective has the towers vision"),
        ({"layer_decay": {"text": 0.9}}, "optimizer.layer_decay names text"),
    ],
)
def test_a_tower_that_an_objective_does_not_have_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        rates_at(objectives()["catlip"], 0, **options)


def test_adamw_decays_apart_from_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.full((2, 2), 4.0))
    weight.grad = torch.zeros(2, 2)
    spec = OptimizerSpec(learning_rate=0.1)
    build_optimizer([{"params": [weight], "weight_decay": 0.5}], spec).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 4.0 * (1 - 0.1 * 0.5)))
