"""Fine-tuning: the whole vision tower and a new linear head, trained on some share of a target's labels.

Recipe: AdamW, a learning rate that warms up over a tenth of the steps and falls as a cosine, and falls by
``layer_decay`` from the head down (BEiT, arXiv 2106.08254); mixup (arXiv 1710.09412), label smoothing, and stochastic
depth of whole layers (arXiv 1603.09382) that rises linearly with depth. Images are centre crops, never mirrored: a
target may be about left and right. Everything random is drawn from fixed seeds on the CPU.
The same steps from random weights, without layer decay (they have nothing to keep), say what was transferred.

Legend: B rows of a batch, N rows, K classes, F pooled features, H W image, T tokens.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from orchestrator.evaluation.scores import is_multi_label, one_hot
from orchestrator.models.layers import count_layers, layer_of
from orchestrator.objectives.objective import Objective
from orchestrator.spec.evaluation import FineTuneSpec

WARMUP_FRACTION = 0.1
_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)")
_JUDGE_BATCH = 64


@dataclass(frozen=True)
class HeadStart:
    """What a head begins with instead of zeros: rows of a classifier that is there (CatLIP's transfer)."""

    weight_KF: Tensor
    bias_K: Tensor
    num_from_concepts: int
    """Classes whose row is that of a concept; the others' are random."""


@torch.enable_grad()
def fine_tune(
    objective: Objective,
    image_NHWC: Tensor,
    label: Tensor,
    num_classes: int,
    spec: FineTuneSpec,
    layer_decay: float,
    start: HeadStart | None = None,
) -> Callable[[Tensor], Tensor]:
    """Trains on all rows and returns what then judges images: uint8 [B, H, W, C] to fp32 logits [B, K] on the CPU.

    Args:
        objective: its weights are changed; runs where they are.
        label: int64 [N] class indices, or bool [N, K].
        start: of the head; none: zeros.
    """
    tower = objective.towers()["vision"]
    device = next(tower.parameters()).device
    objective.eval().requires_grad_(False)
    with torch.no_grad():
        width = objective.vision_features(image_NHWC[:1].to(device)).shape[1]
    head = _new_head(width, num_classes, start).to(device)
    generator = torch.Generator().manual_seed(0)
    hooks = add_drop_path(tower, spec.drop_path, generator)
    tower.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(layer_groups(tower, head, spec, layer_decay))
    target_NK = one_hot(label, num_classes)
    rows = _rows_of_steps(len(label), spec.batch_size, spec.steps, generator)
    for step, row_B in enumerate(rows):
        factor = rate_factor(step, spec.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        image_BHWC, target_BK = mix(image_NHWC[row_B], smooth(target_NK[row_B], label, spec), spec.mixup, generator)
        with _precision(device):
            logits_BK = head(objective.vision_features(image_BHWC.to(device))).float()
        optimizer.zero_grad()
        _loss(logits_BK, target_BK.to(logits_BK), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for hook in hooks:
        hook.remove()
    tower.eval()
    return lambda image: _judge(objective, head, image, device)


def _new_head(width: int, num_classes: int, start: HeadStart | None) -> nn.Linear:
    head = nn.Linear(width, num_classes)
    with torch.no_grad():
        head.weight.copy_(torch.zeros_like(head.weight) if start is None else start.weight_KF)
        head.bias.copy_(torch.zeros_like(head.bias) if start is None else start.bias_K)
    return head


def layer_groups(tower: nn.Module, head: nn.Module, spec: FineTuneSpec, layer_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups, each with its greatest ``rate``; vectors and scalars are not decayed."""
    named = [(f".{name}", parameter) for name, parameter in tower.named_parameters()]
    num_layers = count_layers(name for name, _ in named)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        rate = spec.learning_rate * layer_decay ** (num_layers + 1 - layer_of(name, num_layers))
        groups.setdefault((rate, parameter.ndim >= 2), []).append(parameter)
    for parameter in head.parameters():
        groups.setdefault((spec.learning_rate, parameter.ndim >= 2), []).append(parameter)
    return [
        {"params": parameters, "rate": rate, "weight_decay": spec.weight_decay if is_matrix else 0.0}
        for (rate, is_matrix), parameters in groups.items()
    ]


def add_drop_path(tower: nn.Module, most: float, generator: torch.Generator) -> list[Any]:
    """Hooks with which, in training, a row may pass a layer by: with probability 0 at the first, ``most`` at the last.

    What goes through is scaled up, so that its expectation stays.
    """
    layers = [(int(found[1]), module) for name, module in tower.named_modules() if (found := _LAYER.fullmatch(name))]
    last = max((number for number, _ in layers), default=0)
    return [
        module.register_forward_hook(_drop_path_hook(most * number / last, generator), with_kwargs=True)
        for number, module in layers
        if most and number
    ]


def _drop_path_hook(probability: float, generator: torch.Generator) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output_BTF: Tensor) -> Tensor | None:
        if not module.training:
            return None
        input_BTF: Tensor = args[0] if args else kwargs["hidden_states"]
        passes_B = torch.rand(len(input_BTF), generator=generator) >= probability
        scale_B = (passes_B / (1 - probability)).to(output_BTF)
        return input_BTF + (output_BTF - input_BTF) * scale_B[:, None, None]

    return hook


def mix(image_BHWC: Tensor, target_BK: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup: each row with another, images and targets alike, by one share from Beta(``alpha``, ``alpha``); 0: none."""
    if not alpha:
        return image_BHWC, target_BK
    # Two gammas make a beta; torch draws them with a generator by this name alone.
    gamma_2 = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    share = (gamma_2[0] / gamma_2.sum().clamp(min=1e-12)).item()
    other_B = torch.randperm(len(image_BHWC), generator=generator)
    image = share * image_BHWC.float() + (1 - share) * image_BHWC[other_B].float()
    return image.round().to(torch.uint8), share * target_BK + (1 - share) * target_BK[other_B]


def smooth(target_BK: Tensor, label: Tensor, spec: FineTuneSpec) -> Tensor:
    """Label smoothing: a share of the target is spread over the classes, or over yes and no of each."""
    even = 0.5 if is_multi_label(label) else 1 / target_BK.shape[1]
    return (1 - spec.label_smoothing) * target_BK + spec.label_smoothing * even


def rate_factor(step: int, num_steps: int) -> float:
    """The learning rate's course, in (0, 1]."""
    warmup = max(1, round(WARMUP_FRACTION * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def share_of_rows(label: Tensor, rows: Tensor, fraction: float) -> Tensor:
    """That share of ``rows``, of each class alike and at least one; of several labels a row simply of all."""
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    if is_multi_label(label):
        return order[: math.ceil(fraction * len(order))]
    classes = label[order]
    chosen = [order[classes == one] for one in torch.unique(classes)]
    return torch.cat([own[: math.ceil(fraction * len(own))] for own in chosen])


def _rows_of_steps(num_rows: int, batch_size: int, num_steps: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of each step: one shuffled pass after another."""
    size = min(batch_size, num_rows)
    passes = math.ceil(num_steps * size / num_rows)
    order = torch.cat([torch.randperm(num_rows, generator=generator) for _ in range(passes)])
    return list(torch.split(order[: num_steps * size], size))


def _loss(logits_BK: Tensor, target_BK: Tensor, label: Tensor) -> Tensor:
    if is_multi_label(label):
        return binary_cross_entropy_with_logits(logits_BK, target_BK)
    return cross_entropy(logits_BK, target_BK)


@torch.no_grad()
def _judge(objective: Objective, head: nn.Module, image_NHWC: Tensor, device: torch.device) -> Tensor:
    with _precision(device):
        parts = (head(objective.vision_features(part.to(device))) for part in torch.split(image_NHWC, _JUDGE_BATCH))
        return torch.cat([logits.float().cpu() for logits in parts])


def _precision(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, which needs no scaling of losses; fp32 elsewhere: whatever the model was trained in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
