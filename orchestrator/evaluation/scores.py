"""What is made of a probe's answer: accuracies for one label a row, mean average precision for several.

Legend: N rows, K classes.
"""

import torch
from torch import Tensor

from orchestrator.evaluation.average_precision import mean_average_precision
from orchestrator.evaluation.bootstrap import Estimate, estimate, mean_of

MEAN_AVERAGE_PRECISION = "mean_average_precision"


def is_multi_label(label: Tensor) -> bool:
    """Whether labels are bool [N, K], any number a row, rather than int64 [N] class indices."""
    return label.ndim == 2


def class_scores(score_NK: Tensor, label: Tensor) -> dict[str, Estimate]:
    """Scores of a ranking of classes; the first is the one that counts."""
    if is_multi_label(label):
        return estimate({MEAN_AVERAGE_PRECISION: mean_average_precision(score_NK, label)}, len(label))
    hit_NK = best_classes(score_NK, 5) == label[:, None]
    statistics = {"accuracy": mean_of(hit_NK[:, 0])}
    if score_NK.shape[1] > 5:
        statistics["top5_accuracy"] = mean_of(hit_NK.any(dim=1))
    return estimate(statistics, len(label))


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
