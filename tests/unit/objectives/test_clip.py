"""CLIP against the definition, written out as loops in float64, and against what its export computes."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPVisionModel

from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.clip import ClipObjective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import ClipSpec
from orchestrator.spec.presets import CLIP_PIXELS

CAPTIONS = ["a red cube", "a blue ball", "two green cones", "a b c d e f g h", "x y", "one small ring"]


@pytest.fixture
def objective(build: ModelBuild) -> ClipObjective:
    result = build_objective(ClipSpec(name="clip"), build)
    assert isinstance(result, ClipObjective)
    return result


@pytest.fixture
def batch(images: Tensor, tokenize: Callable) -> dict[str, Tensor]:
    return {"image": images, "tokens": torch.from_numpy(tokenize(CAPTIONS))}


def loss_by_loops(image: list[list[float]], text: list[list[float]], scale: float) -> float:
    count = len(image)
    logits = [[scale * math.fsum(a * b for a, b in zip(u, v, strict=True)) for v in text] for u in image]
    total = 0.0
    for i in range(count):
        total += math.log(sum(math.exp(logits[i][j]) for j in range(count))) - logits[i][i]
        total += math.log(sum(math.exp(logits[j][i]) for j in range(count))) - logits[i][i]
    return total / (2 * count)


def random_unit_rows(seed: int) -> Tensor:
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def features_of(image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """``text``: [B, D], or [B, K, D] for K captions an image."""
    text_BKD = text if text.ndim == 3 else text.unsqueeze(1)
    flags_BK = torch.zeros(text_BKD.shape[:2], dtype=torch.bool)
    hash_BK = torch.arange(flags_BK.numel()).view(flags_BK.shape)
    flags = {"truncated_BK": flags_BK, "repeated_BK": flags_BK, "hash_BK": hash_BK}
    return {"image_BD": image, "text_BKD": text_BKD, **flags}


def test_the_loss_and_its_gradient_are_those_of_the_definition(objective: ClipObjective) -> None:
    image, text = random_unit_rows(0).requires_grad_(), random_unit_rows(1).requires_grad_()
    loss, _ = objective.loss([features_of(image, text)])
    loss.backward()
    scale = math.exp(objective.logit_scale.item())
    assert loss.item() == pytest.approx(loss_by_loops(image.tolist(), text.tolist(), scale), rel=1e-6)

    step = 1e-6
    for which, tensor in enumerate((image, text)):
        for row in range(5):
            for column in range(4):
                values = []
                for sign in (1, -1):
                    moved = [image.tolist(), text.tolist()]
                    moved[which][row][column] += sign * step
                    values.append(loss_by_loops(*moved, scale))
                expected = (values[0] - values[1]) / (2 * step)
                assert tensor.grad[row, column].item() == pytest.approx(expected, abs=2e-6)
    values = [loss_by_loops(image.tolist(), text.tolist(), scale * math.exp(sign * step)) for sign in (1, -1)]
    assert objective.logit_scale.grad.item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-6)


def loss_of_groups_by_loops(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Float64, one pair at a time, for K captions an image; autograd gives its gradient."""
    image, text, total = image.double(), text.double(), torch.zeros((), dtype=torch.float64)
    texts = [caption for captions in text for caption in captions]
    for own, captions in zip(image, text, strict=True):
        among_texts = torch.stack([scale * (own @ caption) for caption in texts]).logsumexp(dim=0)
        for caption in captions:
            among_images = torch.stack([scale * (other @ caption) for other in image]).logsumexp(dim=0)
            total = total + (among_texts + among_images - 2 * scale * (own @ caption)) / 2
    return total / len(texts)


def test_all_captions_of_an_image_are_its_positives(objective: ClipObjective) -> None:
    image = random_unit_rows(0).requires_grad_()
    text = torch.stack([random_unit_rows(seed) for seed in (1, 2, 3)], dim=1).requires_grad_()
    leaves = (image, text, objective.logit_scale)
    loss, metrics = objective.loss([features_of(image, text)])
    expected = loss_of_groups_by_loops(image, text, objective.logit_scale.double().exp().squeeze())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = (torch.autograd.grad(value, leaves) for value in (loss, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)
    assert metrics["positive_similarity"].item() == pytest.approx((image.unsqueeze(1) * text).sum(-1).mean().item())


def test_copies_of_a_caption_shift_the_loss_and_leave_its_gradient(objective: ClipObjective) -> None:
    image, text = random_unit_rows(0).requires_grad_(), random_unit_rows(1)
    one, _ = objective.loss([features_of(image, text)])
    three, _ = objective.loss([features_of(image, text.unsqueeze(1).expand(-1, 3, -1))])
    assert three.item() == pytest.approx(one.item() + math.log(3) / 2, rel=1e-6)
    gradients = (torch.autograd.grad(value, image)[0] for value in (one, three))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_features_of_several_micro_batches_are_one_batch(objective: ClipObjective) -> None:
    image, text = random_unit_rows(0), random_unit_rows(1)
    whole, _ = objective.loss([features_of(image, text)])
    parts, _ = objective.loss([features_of(image[:2], text[:2]), features_of(image[2:], text[2:])])
    torch.testing.assert_close(whole, parts)


def test_metrics_say_who_found_whom(objective: ClipObjective) -> None:
    # Similarities, images in rows: image 0 finds its caption, image 1 prefers caption 0; caption 1 finds image 1.
    image = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    _, metrics = objective.loss([features_of(image, text)])
    assert metrics["image_to_text_accuracy"].item() == 0.5
    assert metrics["text_to_image_accuracy"].item() == 1.0
    assert metrics["positive_similarity"].item() == pytest.approx((1.0 + 0.6) / 2)
    assert metrics["hardest_negative_similarity"].item() == pytest.approx((0.0 + 0.8) / 2)
    assert metrics["logit_scale"].item() == pytest.approx(1 / 0.07, rel=1e-5)
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def test_towers_that_collapsed_find_nothing(objective: ClipObjective) -> None:
    same = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    _, metrics = objective.loss([features_of(same, same)])
    assert metrics["image_to_text_accuracy"].item() == 0


@pytest.mark.parametrize(
    ("captions", "num_captions", "share"),
    [
        (["a b", "b a", "a c", "c a", "b c", "c b"], 1, 0.0),
        (["a", "b", "a", "c", "a", "b"], 1, 5 / 6),
        (["a", "a", "b", "c", "c", "a"], 2, 4 / 5),  # the first image's second one is counted once
    ],
)
def test_captions_that_another_image_has_are_counted(
    objective: ClipObjective, images: Tensor, tokenize: Callable, captions: list[str], num_captions: int, share: float
) -> None:
    count = len(captions) // num_captions
    tokens = torch.from_numpy(tokenize(captions)).view(count, -1)
    with torch.no_grad():
        _, metrics = objective.loss([objective.encode({"image": images[:count], "tokens": tokens})])
    assert metrics["duplicate_caption_fraction"].item() == pytest.approx(share)


def test_captions_without_padding_count_as_truncated(objective: ClipObjective, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        features = objective(batch, stage="encode")
    assert features["truncated_BK"].flatten().tolist() == [False, False, False, True, False, False]


def test_the_temperature_has_one_dimension_and_is_bounded_by_one_and_the_maximum(build: ModelBuild) -> None:
    objective = build_objective(ClipSpec(name="clip", initial_scale=20, max_scale=50), build)
    assert objective.logit_scale.shape == (1,)
    assert objective.logit_scale.item() == pytest.approx(math.log(20))
    assert objective.bounds() == {"logit_scale": (0.0, pytest.approx(math.log(50)))}


def test_bf16_weights_change_the_loss_by_their_rounding_only(
    objective: ClipObjective, batch: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        exact, _ = objective([objective(batch, stage="encode")], stage="loss")
        objective.bfloat16()
        features = objective(batch, stage="encode")
        rounded, _ = objective([features], stage="loss")
    assert features["image_BD"].dtype == features["text_BKD"].dtype == rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.03)


def test_logits_stay_in_fp32_under_autocast(objective: ClipObjective) -> None:
    features = features_of(random_unit_rows(0), random_unit_rows(1))
    exact, _ = objective.loss([features])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = objective.loss([features])
    assert torch.equal(exact, cast)


def test_probes_read_the_tower_before_its_projection(objective: ClipObjective, images: Tensor) -> None:
    with torch.no_grad():
        features = objective.vision_features(images)
        embedding = objective.image_embedding(images)
        projected = torch.nn.functional.normalize(objective.vision.visual_projection(features), dim=1)
    torch.testing.assert_close(embedding, projected)


def test_an_export_opens_in_transformers_and_says_the_same(
    objective: ClipObjective, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    objective.eval()
    with torch.no_grad():
        objective.logit_scale.fill_(3.0)
    export = objective.export(objective.state_dict())
    assert export.head == {}
    export.model.save_pretrained(tmp_path)
    opened = CLIPModel.from_pretrained(tmp_path).eval()
    pixels = normalize_pixels(batch["image"], CLIP_PIXELS)
    with torch.no_grad():
        theirs = opened(pixel_values=pixels, input_ids=batch["tokens"])
        ours = objective.encode(batch)
        pooled = CLIPVisionModel.from_pretrained(tmp_path).eval()(pixel_values=pixels).pooler_output
        torch.testing.assert_close(pooled, objective.vision_features(batch["image"]))
    torch.testing.assert_close(theirs.image_embeds, ours["image_BD"])
    text_BD = ours["text_BKD"].squeeze(1)
    torch.testing.assert_close(theirs.text_embeds, text_BD)
    expected = math.exp(3.0) * ours["image_BD"] @ text_BD.T
    torch.testing.assert_close(theirs.logits_per_image, expected, atol=1e-4, rtol=1e-5)
