"""Zero-shot classification: an image belongs to the class whose prompts it is most similar to.

Source: CLIP (arXiv 2103.00020), section 3.1: prompts of a class are encoded, normalised, averaged and normalised again.
The classifier is computed afresh each time: one kept from other weights would judge the wrong model.
Classes that share all their prompts (one hypernym for both) cannot be told apart: the first of them is taken.

A model without a text tower may have a classifier of concepts instead, whose rows stand in for the prompts
(``objectives/synset_rows.py``).

Legend: B prompts of a call, P distinct prompts, T templates, N images, K classes, D embedding, F pooled features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from orchestrator.evaluation.targets import TargetSpec

MAX_PROMPTS_PER_CALL = 256


@dataclass(frozen=True)
class ZeroShotResult:
    """Shares of images whose class is the most similar one, or (with more than 5 classes) among the first 5."""

    accuracy: float
    top5_accuracy: float | None


def class_embeddings(encode_texts: Callable[[list[str]], Tensor], target: TargetSpec) -> Tensor:
    """One embedding of length one per class: fp32 [K, D] on the CPU, in the order of ``target.classes``.

    Args:
        encode_texts: prompts to [B, D], normalised or not, on any device.
        target: classes with at least one template.
    """
    prompts_KT = [target.prompts_of(label) for label in target.classes]
    distinct = list(dict.fromkeys(prompt for prompts in prompts_KT for prompt in prompts))
    calls = [distinct[i : i + MAX_PROMPTS_PER_CALL] for i in range(0, len(distinct), MAX_PROMPTS_PER_CALL)]
    with torch.no_grad():
        text_PD = normalize(torch.cat([encode_texts(call).float().cpu() for call in calls]), dim=-1)
    row_of = {prompt: row for row, prompt in enumerate(distinct)}
    mean_KD = [text_PD[[row_of[prompt] for prompt in prompts]].mean(dim=0) for prompts in prompts_KT]
    return normalize(torch.stack(mean_KD), dim=-1)


def zero_shot(image_ND: Tensor, labels_N: Tensor, class_KD: Tensor) -> ZeroShotResult:
    """Judges image embeddings (fp32, any length) against class embeddings; labels are int64 indices of classes."""
    return _judge_scores(normalize(image_ND, dim=-1) @ class_KD.T, labels_N)


def zero_shot_by_rows(pooled_NF: Tensor, labels_N: Tensor, weight_KF: Tensor, bias_K: Tensor) -> ZeroShotResult:
    """Judges pooled features by the logits of a classifier that was never trained on the classes."""
    return _judge_scores(pooled_NF @ weight_KF.T + bias_K, labels_N)


def _judge_scores(score_NK: Tensor, labels_N: Tensor) -> ZeroShotResult:
    ranking_NK = score_NK.argsort(dim=1, descending=True, stable=True)
    hit_NK = ranking_NK == labels_N[:, None]
    top5 = hit_NK[:, :5].any(dim=1).double().mean().item() if score_NK.shape[1] > 5 else None
    return ZeroShotResult(accuracy=hit_NK[:, 0].double().mean().item(), top5_accuracy=top5)
