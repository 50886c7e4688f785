"""Zero-shot classification: an image belongs to the class whose prompts it is most similar to.

Source: CLIP (arXiv 2103.00020), section 3.1: prompts of a class are encoded, normalised, averaged and normalised again.
The classifier is computed afresh each time: one kept from other weights would judge the wrong model.
Classes that share all their prompts (one hypernym for both) cannot be told apart: the first of them is taken.

A model without a text tower may have a classifier of concepts instead, whose rows stand in for the prompts
(``objectives/synset_rows.py``).

Legend: P distinct prompts, T templates, N images, K classes, D embedding, F pooled features.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from orchestrator.spec.targets import TargetSpec


def class_embeddings(encode_texts: Callable[[list[str]], Tensor], target: TargetSpec) -> Tensor:
    """One embedding of length one per class: fp32 [K, D] on the CPU, in the order of ``target.classes``.

    Args:
        encode_texts: any number of prompts P to fp32 [P, D] on the CPU, normalised or not.
        target: classes with at least one template.
    """
    prompts_KT = [target.prompts_of(label) for label in target.classes]
    distinct = list(dict.fromkeys(prompt for prompts in prompts_KT for prompt in prompts))
    text_PD = normalize(encode_texts(distinct), dim=-1)
    row_of = {prompt: row for row, prompt in enumerate(distinct)}
    mean_KD = [text_PD[[row_of[prompt] for prompt in prompts]].mean(dim=0) for prompts in prompts_KT]
    return normalize(torch.stack(mean_KD), dim=-1)


def zero_shot(image_ND: Tensor, class_KD: Tensor) -> Tensor:
    """Cosine similarity, fp32 [N, K], of image embeddings of any length to class embeddings."""
    return normalize(image_ND, dim=-1) @ class_KD.T


def zero_shot_by_rows(pooled_NF: Tensor, weight_KF: Tensor, bias_K: Tensor) -> Tensor:
    """Logits, fp32 [N, K], of a classifier that was never trained on the classes."""
    return pooled_NF @ weight_KF.T + bias_K
