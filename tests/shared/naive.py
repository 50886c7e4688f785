"""Every objective's loss from its definition: float64, one process, one pair at a time; autograd gives the gradient."""

import copy

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from orchestrator.models.pixels import normalize_pixels
from orchestrator.objectives.catlip import CatlipObjective
from orchestrator.objectives.clip import ClipObjective
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.siglip import SiglipObjective
from orchestrator.training.step import Batch


def naive_loss_and_gradient(objective: Objective, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Of the whole ``batch``, by parameter name."""
    exact = copy.deepcopy(objective).double()
    if isinstance(exact, CatlipObjective):
        loss = _classification_loss(exact, batch)
    else:
        image, text = _embeddings(exact, batch)
        scale = exact.logit_scale.exp().squeeze()
        if isinstance(exact, SiglipObjective):
            loss = _pair_loss(image, text, scale, exact.logit_bias.squeeze())
        else:
            assert isinstance(exact, ClipObjective), "no definition of this objective's loss here"
            loss = _symmetric_loss(image, text, scale)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in exact.named_parameters()}


def _embeddings(objective: Objective, batch: Batch) -> tuple[Tensor, list[list[Tensor]]]:
    pixels = normalize_pixels(batch["image"], objective.vision.pixels).double()
    context = objective.text.config.max_position_embeddings
    seen, read = objective.vision(pixel_values=pixels), objective.text(input_ids=batch["tokens"].view(-1, context))
    image = getattr(seen, "image_embeds", None)
    text = getattr(read, "text_embeds", None)
    image = normalize(seen.pooler_output if image is None else image, dim=1)
    rows = list(normalize(read.pooler_output if text is None else text, dim=1))
    count = len(rows) // len(image)
    return image, [rows[i * count : (i + 1) * count] for i in range(len(image))]


def _symmetric_loss(image: Tensor, text: list[list[Tensor]], scale: Tensor) -> Tensor:
    captions = [caption for group in text for caption in group]
    total = torch.zeros((), dtype=torch.float64)
    for own, group in zip(image, text, strict=True):
        among_texts = torch.stack([scale * (own @ caption) for caption in captions]).logsumexp(dim=0)
        for caption in group:
            among_images = torch.stack([scale * (other @ caption) for other in image]).logsumexp(dim=0)
            total = total + (among_texts + among_images) / 2 - scale * (own @ caption)
    return total / len(captions)


def _pair_loss(image: Tensor, text: list[list[Tensor]], scale: Tensor, bias: Tensor) -> Tensor:
    total, count = torch.zeros((), dtype=torch.float64), sum(map(len, text))
    for i, one in enumerate(image):
        for j, group in enumerate(text):
            for caption in group:
                z = scale * (one @ caption) + bias
                total = total - logsigmoid(z if i == j else -z)
    return total / count


def _classification_loss(objective: CatlipObjective, batch: Batch) -> Tensor:
    pooled = objective.vision(
        pixel_values=normalize_pixels(batch["image"], objective.vision.pixels).double()
    ).pooler_output
    total = torch.zeros((), dtype=torch.float64)
    for row, named in zip(pooled, batch["concepts"].tolist(), strict=True):
        for v, (weight, bias) in enumerate(zip(objective.classifier.weight, objective.classifier.bias, strict=True)):
            z = row @ weight + bias
            total = total - logsigmoid(z if v in named else -z)
    return total / len(pooled)
