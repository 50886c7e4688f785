"""CatLIP against the definition, written out as loops in float64."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionModel

from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.catlip import CatlipObjective, multi_label_loss
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import CatlipSpec

FRACTIONS = np.array([0.5, 0.25, 0.1, 0.05, 0.01, 0.9, 0.3])
CONCEPTS = torch.tensor([[0, 3, -1], [-1, -1, -1], [6, 5, 0], [2, -1, -1]])


@pytest.fixture
def objective(build: ModelBuild) -> CatlipObjective:
    result = build_objective(CatlipSpec(name="catlip"), build, FRACTIONS)
    assert isinstance(result, CatlipObjective)
    return result


def loss_by_loops(logits: list[list[float]], concepts: list[list[int]]) -> tuple[float, list[list[float]]]:
    """Loss and gradient by the logits."""
    total, gradient = 0.0, []
    for row, named in zip(logits, concepts, strict=True):
        gradient.append([])
        for v, z in enumerate(row):
            probability = 1 / (1 + math.exp(-z))
            total -= math.log(probability if v in named else 1 - probability)
            gradient[-1].append((probability - (v in named)) / len(logits))
    return total / len(logits), gradient


def random_logits() -> Tensor:
    return 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(0))


def test_the_loss_and_its_gradient_are_those_of_the_definition(objective: CatlipObjective) -> None:
    logits = random_logits().requires_grad_()
    loss, _ = objective.loss([{"logits_BV": logits, "concepts_BK": CONCEPTS}])
    loss.backward()
    expected, gradient = loss_by_loops(logits.tolist(), CONCEPTS.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(logits.grad, torch.tensor(gradient))


def test_the_baseline_is_the_loss_of_saying_each_concepts_frequency(objective: CatlipObjective) -> None:
    logits = random_logits()
    loss, metrics = objective.loss([{"logits_BV": logits, "concepts_BK": CONCEPTS}])
    log_odds = [[math.log(p / (1 - p)) for p in FRACTIONS]] * 4
    baseline, _ = loss_by_loops(log_odds, CONCEPTS.tolist())
    assert metrics["loss_over_prior"].item() == pytest.approx(loss.item() - baseline, rel=1e-5)


def test_metrics_count_hits_and_positives(objective: CatlipObjective) -> None:
    logits = torch.arange(7, dtype=torch.float32).repeat(4, 1)  # the five greatest: concepts 2 to 6
    _, metrics = objective.loss([{"logits_BV": logits, "concepts_BK": CONCEPTS}])
    assert metrics["precision_at_5"].item() == pytest.approx((1 + 0 + 2 + 1) / (4 * 5))
    assert metrics["positives_per_image"].item() == pytest.approx((2 + 0 + 3 + 1) / 4)
    assert metrics["all_zero_fraction"].item() == pytest.approx(1 / 4)
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def test_a_batch_without_any_concept_has_a_finite_loss() -> None:
    loss = multi_label_loss(torch.zeros(2, 3), torch.full((2, 1), -1))
    assert loss.item() == pytest.approx(3 * math.log(2))


def test_the_bias_starts_at_zero_or_at_the_log_odds(build: ModelBuild) -> None:
    plain = build_objective(CatlipSpec(name="catlip"), build, FRACTIONS)
    prior = build_objective(CatlipSpec(name="catlip", bias_at_log_prior=True), build, FRACTIONS)
    assert plain.classifier.bias.abs().max() == 0
    np.testing.assert_allclose(
        prior.classifier.bias.detach().numpy(), np.log(FRACTIONS / (1 - FRACTIONS)), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(plain.classifier.weight, prior.classifier.weight)


def test_concepts_of_all_captions_or_of_none_leave_the_baseline_finite(build: ModelBuild) -> None:
    objective = build_objective(CatlipSpec(name="catlip"), build, np.array([0.0, 1.0, 0.5]))
    _, metrics = objective.loss([{"logits_BV": torch.zeros(1, 3), "concepts_BK": torch.tensor([[1]])}])
    assert metrics["loss_over_prior"].isfinite()


def test_logits_and_loss_are_fp32_with_bf16_weights(objective: CatlipObjective, images: Tensor) -> None:
    batch = {"image": images[:4], "concepts": CONCEPTS.int()}
    with torch.no_grad():
        exact, _ = objective([objective(batch, stage="encode")], stage="loss")
        objective.bfloat16()
        features = objective(batch, stage="encode")
        rounded, _ = objective([features], stage="loss")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert objective.classifier(torch.ones(1, 32)).dtype == torch.float32
    assert features["logits_BV"].dtype == rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.03)


def test_an_export_opens_in_transformers_and_keeps_the_classifier(
    objective: CatlipObjective, images: Tensor, tmp_path: Path
) -> None:
    objective.eval()
    export = objective.export(objective.state_dict())
    export.model.save_pretrained(tmp_path)
    opened = CLIPVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        pooled = opened(pixel_values=normalize_pixels(images)).pooler_output
        logits = pooled @ export.head["classifier.weight"].T + export.head["classifier.bias"]
        torch.testing.assert_close(pooled, objective.vision_features(images))
        concepts = torch.zeros(6, 1, dtype=torch.int32)
        torch.testing.assert_close(logits, objective.encode({"image": images, "concepts": concepts})["logits_BV"])
