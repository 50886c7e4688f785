"""CatLIP against the definition, written out as loops in float64."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionModel

from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives import concept_classifier
from orchestrator.objectives.catlip import CatlipObjective
from orchestrator.objectives.concept_classifier import multi_label_loss
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


def giving(objective: CatlipObjective, logits: Tensor) -> dict[str, Tensor]:
    """Features with which the objective's logits are ``logits``."""
    with torch.no_grad():
        objective.classifier.weight.copy_(torch.eye(7, 32))
        objective.classifier.bias.zero_()
    pooled = torch.nn.functional.pad(logits, (0, 32 - 7))
    return {"pooled_BF": pooled, "concepts_BK": CONCEPTS}


@pytest.mark.parametrize("most_logits", [2**24, 14, 1])
def test_the_loss_and_its_gradient_are_those_of_the_definition(
    objective: CatlipObjective, most_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where images are taken in chunks."""
    monkeypatch.setattr(concept_classifier, "MOST_LOGITS", most_logits)
    generator = torch.Generator().manual_seed(1)
    pooled = torch.randn(4, 32, generator=generator, requires_grad=True)
    with torch.no_grad():
        objective.classifier.weight.copy_(torch.randn(7, 32, generator=generator))
        objective.classifier.bias.copy_(torch.randn(7, generator=generator))
    weight, bias = objective.classifier.weight, objective.classifier.bias
    loss, metrics = objective.loss([{"pooled_BF": pooled, "concepts_BK": CONCEPTS}])
    (2 * loss).backward()

    logits = pooled.double() @ weight.double().T + bias.double()
    expected, gradient = loss_by_loops(logits.tolist(), CONCEPTS.tolist())
    grad_logits = 2 * torch.tensor(gradient, dtype=torch.float64)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(pooled.grad.double(), grad_logits @ weight.detach().double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), grad_logits.T @ pooled.detach().double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias.grad.double(), grad_logits.sum(dim=0), rtol=1e-5, atol=1e-6)
    top = logits.topk(5).indices.tolist()
    hits = sum(v in named for row, named in zip(top, CONCEPTS.tolist(), strict=True) for v in row)
    assert metrics["precision_at_5"].item() == pytest.approx(hits / 20)


def test_the_loss_without_a_gradient_is_the_same(objective: CatlipObjective) -> None:
    features = giving(objective, random_logits())
    with torch.no_grad():
        alone, _ = objective.loss([features])
    assert not alone.requires_grad
    assert torch.equal(alone, objective.loss([features])[0].detach())


def test_the_baseline_is_the_loss_of_saying_each_concepts_frequency(objective: CatlipObjective) -> None:
    loss, metrics = objective.loss([giving(objective, random_logits())])
    log_odds = [[math.log(p / (1 - p)) for p in FRACTIONS]] * 4
    baseline, _ = loss_by_loops(log_odds, CONCEPTS.tolist())
    assert metrics["loss_over_prior"].item() == pytest.approx(loss.item() - baseline, rel=1e-5)


def test_metrics_count_hits_and_positives(objective: CatlipObjective) -> None:
    logits = torch.arange(7, dtype=torch.float32).repeat(4, 1)  # the five greatest: concepts 2 to 6
    _, metrics = objective.loss([giving(objective, logits)])
    assert metrics["precision_at_5"].item() == pytest.approx((1 + 0 + 2 + 1) / (4 * 5))
    assert metrics["positives_per_image"].item() == pytest.approx((2 + 0 + 3 + 1) / 4)
    assert metrics["all_zero_fraction"].item() == pytest.approx(1 / 4)
    assert metrics["left_out_concepts_per_image"].item() == 0
    cut = torch.cat([CONCEPTS, torch.tensor([[-1], [-1], [-1 - 6], [-1]])], dim=1)
    loss, counted = objective.loss([giving(objective, logits) | {"concepts_BK": cut}])
    assert counted.pop("left_out_concepts_per_image").item() == 6 / 4
    assert loss.item() == objective.loss([giving(objective, logits)])[0].item()
    assert {name: value.item() for name, value in counted.items()} == pytest.approx(
        {name: metrics[name].item() for name in counted}
    )
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
    _, metrics = objective.loss([{"pooled_BF": torch.zeros(1, 32), "concepts_BK": torch.tensor([[1]])}])
    assert metrics["loss_over_prior"].isfinite()


def test_logits_and_loss_are_fp32_with_bf16_weights(objective: CatlipObjective, images: Tensor) -> None:
    batch = {"image": images[:4], "concepts": CONCEPTS.int()}
    with torch.no_grad():
        exact, _ = objective([objective(batch, stage="encode")], stage="loss")
        objective.bfloat16()
        features = objective(batch, stage="encode")
        rounded, _ = objective([features], stage="loss")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast, _ = objective.loss([features])
    assert rounded.dtype == torch.float32
    assert torch.equal(cast, rounded)
    assert rounded.item() == pytest.approx(exact.item(), rel=0.03)


def test_an_export_opens_in_transformers_and_keeps_the_classifier(
    objective: CatlipObjective, images: Tensor, tmp_path: Path
) -> None:
    objective.eval()
    export = objective.export(objective.state_dict())
    export.model.save_pretrained(tmp_path)
    opened = CLIPVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        pooled = opened(pixel_values=normalize_pixels(images, objective.vision.pixels)).pooler_output
        torch.testing.assert_close(pooled, objective.vision_features(images))
    weight, bias = objective.concept_classifier()
    assert torch.equal(export.head["classifier.weight"], weight)
    assert torch.equal(export.head["classifier.bias"], bias)


class _LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_holds_the_logits_of_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_classifier, "MOST_LOGITS", 4000)
    classifier = concept_classifier.ConceptClassifier(8, 1000, torch.Generator().manual_seed(0))
    pooled = torch.randn(64, 8, requires_grad=True)
    with _LargestTensor() as largest:
        loss, _ = classifier(pooled, torch.randint(0, 1000, (64, 3)))
        loss.backward()
    assert largest.numel == 8000, "the classifier's own weights"
    assert pooled.grad is not None
