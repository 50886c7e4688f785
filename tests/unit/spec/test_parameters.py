"""Counted parameters against those of the modules that a worker builds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipModel

from orchestrator.models.sizes import find_preset
from orchestrator.models.towers import model_build
from orchestrator.objectives.table import build_objective
from orchestrator.spec.facts import Facts, FinderFacts, TokenizerFacts, VocabularyFacts
from orchestrator.spec.parameters import count_parameters
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS
from orchestrator.training.optimizer import freeze_parameters

Resolve = Callable[..., Plan]
FINDER = FinderFacts(mode="corenet", noun_table=None, tagger=None)
READY = {
    "tokenizer": TokenizerFacts(uri="t", digest="d", vocabulary_size=300, begin_id=1, end_id=3, pad_id=0),
    "vocabulary": VocabularyFacts(uri="v", digest="d", size=50, finder=FINDER),
}


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("siglip_")])
def test_the_released_siglips_have_presets_with_their_sizes_and_parameters(resolve: Resolve, preset: str) -> None:
    size = PRESETS[preset]
    document = {"objective": {"name": "siglip"}, "model": {"preset": preset, "variant": "siglip"}, "workers": 1}
    plan = resolve({**document, "batch": {"global_size": 64}, "text": {"context": 64, "trained_size": 32_000}})
    with torch.device("meta"):
        shape = {"num_hidden_layers": size.vision.num_layers, "num_attention_heads": size.vision.num_heads}
        tower = {"hidden_size": size.vision.width, "intermediate_size": size.vision.mlp_width, **shape}
        images = {"image_size": size.image_size, "patch_size": size.patch_size}
        model = SiglipModel(
            SiglipConfig(text_config={**tower, "projection_size": size.vision.width}, vision_config=tower | images)
        )
    assert count_parameters(plan).total == sum(parameter.numel() for parameter in model.parameters())
    assert find_preset("released", model.state_dict(), model.config.to_dict()) == (preset, size.image_size)


@pytest.mark.parametrize(
    "job",
    [
        {"objective": {"name": "clip"}},
        {"objective": {"name": "siglip"}},
        {"objective": {"name": "siglip"}, "model": {"preset": "vit_tiny_64", "variant": "siglip"}},
        {"objective": {"name": "siglip", "towers": "clip"}, "model": {"preset": "vit_tiny_64", "image_size": 48}},
        {"objective": {"name": "catlip"}},
        {"objective": {"name": "catlip"}, "model": {"preset": "vit_tiny_64", "variant": "corenet"}},
        {"objective": {"name": "clip"}, "freeze": {"vision": {}, "text": {"layers": 1}}},
        {"objective": {"name": "clip"}, "freeze": {"vision": {"until_fraction": 0.5}}},
    ],
)
def test_counted_parameters_are_those_of_the_built_objective(
    resolve: Resolve, facts: Facts, job: dict[str, Any]
) -> None:
    freeze = job.pop("freeze", {})
    optimizer = {"learning_rate": 1e-3, "freeze": freeze}
    plan = resolve({**job, "optimizer": optimizer}, facts=facts.model_copy(update=READY))
    objective = build_objective(plan.objective, model_build(plan.model, 0), np.full(50, 0.1))
    freeze_parameters(objective, plan.optimizer)
    counted = count_parameters(plan)
    assert counted.total == sum(parameter.numel() for parameter in objective.parameters())
    assert counted.trained == sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    sizes = {name: sum(one.numel() for one in tower.parameters()) for name, tower in objective.towers().items()}
    assert {name: tower.total for name, tower in counted.towers.items()} == sizes
