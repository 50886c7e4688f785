"""SigLIP against the definition, written out as loops in float64, and against what its exports compute."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPModel, SiglipModel

from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.siglip import SiglipObjective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import SiglipSpec

CAPTIONS = ["a red cube", "a blue ball", "two green cones", "a b c d e f g h", "x y", "one small ring"]


def built(build: ModelBuild, **options: object) -> SiglipObjective:
    objective = build_objective(SiglipSpec(name="siglip", **options), build)
    assert isinstance(objective, SiglipObjective)
    return objective


@pytest.fixture
def batch(images: Tensor, tokenize: Callable) -> dict[str, Tensor]:
    return {"image": images, "tokens": torch.from_numpy(tokenize(CAPTIONS))}


def unit_rows(seed: int, *shape: int) -> Tensor:
    rows = torch.randn(*shape, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1).requires_grad_()


def features_of(image_BD: Tensor, text_BKD: Tensor) -> dict[str, Tensor]:
    flags_BK = torch.zeros(text_BKD.shape[:2], dtype=torch.bool)
    hash_BK = torch.arange(flags_BK.numel()).view(flags_BK.shape)
    flags = {"truncated_BK": flags_BK, "repeated_BK": flags_BK, "hash_BK": hash_BK}
    return {"image_BD": image_BD, "text_BKD": text_BKD, **flags}


def loss_by_loops(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Float64, one pair at a time; autograd gives its gradient."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(image)):
        for j in range(len(text)):
            for k in range(text.shape[1]):
                z = scale.double().exp() * (image[i].double() @ text[j, k].double()) + bias.double()
                total = total - torch.nn.functional.logsigmoid(z if i == j else -z).sum()
    return total / (len(text) * text.shape[1])


@pytest.mark.parametrize("num_captions", [1, 3])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 64])
def test_the_loss_and_its_gradient_are_those_of_the_definition(
    build: ModelBuild, num_captions: int, chunk_size: int
) -> None:
    objective = built(build, chunk_size=chunk_size, initial_bias=-1.0)
    image, text = unit_rows(0, 5), unit_rows(1, 5, num_captions)
    leaves = (image, text, objective.logit_scale, objective.logit_bias)
    loss, _ = objective.loss([features_of(image, text)])
    expected = loss_by_loops(*leaves)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = (torch.autograd.grad(3 * value, leaves) for value in (loss, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_it_starts_as_the_paper_says(build: ModelBuild) -> None:
    objective = built(build)
    assert objective.logit_scale.item() == pytest.approx(math.log(10))
    assert objective.logit_bias.item() == -10
    image, text = torch.eye(4), torch.eye(4).roll(1, 0).unsqueeze(1)  # every similarity is 0, but for one negative
    loss, _ = objective.loss([features_of(image, text)])
    near, far = math.log1p(math.exp(-10)), math.log(2)  # a negative of similarity 1: z = 0
    assert loss.item() == pytest.approx((10 + near) + 2 * near + far, rel=1e-6)


def test_copies_of_a_caption_change_nothing(build: ModelBuild) -> None:
    objective = built(build)
    image, text = unit_rows(0, 5), unit_rows(1, 5, 1)
    one, _ = objective.loss([features_of(image, text)])
    three, _ = objective.loss([features_of(image, text.expand(-1, 3, -1))])
    torch.testing.assert_close(three, one)


def test_without_a_gradient_loss_and_metrics_are_the_same(build: ModelBuild) -> None:
    objective = built(build, chunk_size=2)
    features = features_of(unit_rows(0, 5), unit_rows(1, 5, 2))
    with_gradient, metrics = objective.loss([features])
    with torch.no_grad():
        without, again = objective.loss([features])
    assert torch.equal(without, with_gradient.detach())
    assert all(torch.equal(again[name], value) for name, value in metrics.items())


def test_metrics_say_who_found_whom(build: ModelBuild) -> None:
    # Image 0 finds a caption of its own, image 1 prefers the first of image 0; captions 2 and 3 find image 1.
    image = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    text = torch.tensor([[[1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    _, metrics = built(build, chunk_size=1).loss([features_of(image, text)])
    assert metrics["image_to_text_accuracy"].item() == 0.5
    assert metrics["text_to_image_accuracy"].item() == 1.0
    assert metrics["positive_similarity"].item() == pytest.approx((1.0 + 0.0 + 0.6 + 0.6) / 4)
    assert metrics["hardest_negative_similarity"].item() == pytest.approx((0.0 + 0.8) / 2)
    assert (metrics["logit_scale"].item(), metrics["logit_bias"].item()) == (pytest.approx(10), -10)
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def test_metrics_stay_what_they_were_when_the_step_changes_the_scalars(build: ModelBuild) -> None:
    objective = built(build)
    _, metrics = objective.loss([features_of(unit_rows(0, 2), unit_rows(1, 2, 1))])
    with torch.no_grad():
        objective.logit_bias.fill_(3)
        objective.logit_scale.fill_(3)
    assert (metrics["logit_scale"].item(), metrics["logit_bias"].item()) == (pytest.approx(10), -10)


def test_the_temperature_is_bounded_only_where_the_job_says_so(build: ModelBuild) -> None:
    assert built(build).bounds() == {}
    assert built(build, max_scale=100).bounds() == {"logit_scale": (-math.inf, pytest.approx(math.log(100)))}


@pytest.mark.parametrize("towers", ["siglip", "clip"])
def test_an_export_opens_in_transformers_and_says_the_same(
    build: ModelBuild, batch: dict[str, Tensor], tmp_path: Path, towers: str
) -> None:
    objective = built(build, towers=towers).eval()
    export = objective.export(objective.state_dict())
    export.model.save_pretrained(tmp_path)
    opened = (SiglipModel if towers == "siglip" else CLIPModel).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        theirs = opened(
            pixel_values=normalize_pixels(batch["image"], objective.vision.pixels), input_ids=batch["tokens"]
        )
        ours = objective.encode(batch)
    image_BD, text_BD = ours["image_BD"], ours["text_BKD"].squeeze(1)
    torch.testing.assert_close(theirs.image_embeds, image_BD)
    torch.testing.assert_close(theirs.text_embeds, text_BD)
    logits = 10 * image_BD @ text_BD.T - (10 if towers == "siglip" else 0)
    torch.testing.assert_close(theirs.logits_per_image, logits, atol=1e-4, rtol=1e-5)
    assert set(export.head) == ({"logit_bias"} if towers == "clip" else set())


@pytest.mark.parametrize("towers", ["siglip", "clip"])
def test_captions_in_groups_are_embedded_one_by_one_and_repeats_are_counted(
    build: ModelBuild, images: Tensor, tokenize: Callable, towers: str
) -> None:
    objective = built(build, towers=towers).eval()
    tokens = torch.from_numpy(tokenize(["a", "b", "a", "c", "c", "c"]))
    with torch.no_grad():
        features = objective.encode({"image": images[:2], "tokens": tokens.view(2, -1)})
        alone = objective.text_embedding(tokens)
        _, metrics = objective.loss([features])
    torch.testing.assert_close(features["text_BKD"].flatten(0, 1), alone)
    assert features["repeated_BK"].tolist() == [[False, False, True], [False, True, True]]
    assert metrics["repeated_caption_fraction"].item() == pytest.approx(0.5)
    assert metrics["duplicate_caption_fraction"].item() == 0  # what one image repeats is no other's


def test_logits_are_in_memory_for_one_chunk_of_images(build: ModelBuild) -> None:
    objective = built(build, chunk_size=2)
    image, text = unit_rows(0, 64), unit_rows(1, 64, 2)
    shapes: set[torch.Size] = set()

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            shapes.update(part.shape for part in (result if isinstance(result, tuple) else (result,)))
            return result

    with Shapes():
        loss, _ = objective.loss([features_of(image, text)])
        loss.backward()
    assert (2, 128) in shapes, "a chunk of images with all captions"
    assert max(shape.numel() for shape in shapes) == 64 * 2 * 4, "the captions themselves"
