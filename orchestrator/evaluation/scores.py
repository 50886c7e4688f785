"""What is made of a probe's answer: accuracies for one label a row, mean average precision for several.

Legend: N rows, K classes.
"""

import torch
from torch import Tensor

from orchestrator.evaluation.average_precision import mean_average_precision
from orchestrator.evaluation.bootstrap import Estimate, estimate, mean_of
from orchestrator.evaluation.results import VOCABULARY_PARTS

MEAN_AVERAGE_PRECISION, TOP5_ACCURACY = "mean_average_precision", "top5_accuracy"


def is_multi_label(label: Tensor) -> bool:
    """Whether labels are bool [N, K], any number a row, rather than int64 [N] class indices."""
    return label.ndim == 2


def class_scores(score_NK: Tensor, label: Tensor, known_K: Tensor | None = None) -> dict[str, Estimate]:
    """Scores of a ranking of classes; the first is the one that counts.

    Args:
        known_K: bool, whether the vocabulary holds the class; each score is then also that of either part of them.
    """
    parts = vocabulary_parts(known_K)
    if is_multi_label(label):
        statistics = {MEAN_AVERAGE_PRECISION: mean_average_precision(score_NK, label)}
        for part, of_part_K in parts.items():
            if label[:, of_part_K].any():
                found = mean_average_precision(score_NK[:, of_part_K], label[:, of_part_K])
                statistics[MEAN_AVERAGE_PRECISION + part] = found
        return estimate(statistics, len(label))
    hit_NK = best_classes(score_NK, 5) == label[:, None]
    hits = {"accuracy": hit_NK[:, 0]} | ({TOP5_ACCURACY: hit_NK.any(dim=1)} if score_NK.shape[1] > 5 else {})
    statistics = {name: mean_of(hit_N) for name, hit_N in hits.items()}
    for part, of_part_K in parts.items():
        if (within_N := of_part_K[label]).any():
            statistics |= {name + part: mean_of(hit_N, within_N) for name, hit_N in hits.items()}
    return estimate(statistics, len(label))


def vocabulary_parts(known_K: Tensor | None) -> dict[str, Tensor]:
    """Which classes are in either part, by what its scores' names end in; none where nothing is known."""
    return {} if known_K is None else dict(zip(VOCABULARY_PARTS, (known_K, ~known_K), strict=True))


def best_classes(score_NK: Tensor, most: int) -> Tensor:
    """int64 [N, ``most``], the best first. Of classes that tie, the first leads."""
    return score_NK.argsort(dim=1, descending=True, stable=True)[:, :most]


def chance(label: Tensor) -> float:
    """The first score without looking: the share of the most frequent class, or a random ranking's precision.

    The latter is the mean share of positive rows over the classes that have any.
    """
    if is_multi_label(label):
        share_K = label.double().mean(dim=0)
        return share_K[share_K > 0].mean().item()
    return (label.bincount().max() / len(label)).item()


def one_hot(label: Tensor, num_classes: int) -> Tensor:
    """Labels of either form as fp64 [N, K]."""
    if is_multi_label(label):
        return label.double()
    return torch.nn.functional.one_hot(label, num_classes).double()
