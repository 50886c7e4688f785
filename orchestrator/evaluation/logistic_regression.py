"""Logistic regression by L-BFGS on standardised features: of one label a row, or of each class by itself.

Everything is fp64 on the CPU: the same features give the same classifier.

Legend: N rows, D feature, K classes. Labels are int64 [N] class indices (softmax), or bool [N, K] (sigmoids).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from orchestrator.evaluation.average_precision import average_precision
from orchestrator.evaluation.scores import is_multi_label

MAX_ITERATIONS = 1000
FINAL_TOLERANCE = 1e-4
"""Greatest gradient component that counts as none, in the scaled weights of :func:`fit`."""


class Score(NamedTuple):
    """Compares by quality; equal qualities, common on few rows, by the likelihood of the labels."""

    quality: float
    """Accuracy, or mean average precision of several labels a row."""
    log_likelihood: float
    """Mean over rows, in nats."""


@dataclass(frozen=True)
class Classifier:
    """A fitted linear classifier: fp64 weight [D, K], bias [K]."""

    weight: Tensor
    bias: Tensor

    def logits(self, feature_ND: Tensor) -> Tensor:
        """fp64 [N, K]."""
        return feature_ND @ self.weight + self.bias

    def judge(self, feature_ND: Tensor, label: Tensor) -> Score:
        """How well the labels are predicted."""
        logits_NK = self.logits(feature_ND)
        loss, _ = _loss_and_residual(logits_NK, label)
        if is_multi_label(label):
            precision_K = average_precision(logits_NK, label)
            return Score(precision_K.nanmean().nan_to_num().item(), -loss.item())
        return Score((logits_NK.argmax(dim=1) == label).double().mean().item(), -loss.item())


def fit(
    feature_ND: Tensor,
    label: Tensor,
    num_classes: int,
    c: float,
    tolerance: float = FINAL_TOLERANCE,
    start: Classifier | None = None,
) -> Classifier:
    """Minimises mean cross-entropy + |W|^2 / (2 c N) by L-BFGS; the bias is not penalised.

    Solves for weights divided by ``scale``, which evens out the curvature of features along principal axes, so
    that tens of iterations do instead of thousands; the minimum is the same. The gradient is written out: autograd
    would cost as much again as the two matrix products.
    """
    num_rows, num_features = feature_ND.shape
    penalty = 1 / (c * num_rows)
    start = start or Classifier(feature_ND.new_zeros(num_features, num_classes), _prior(label, num_classes))
    num_alternatives = 2 if is_multi_label(label) else num_classes
    even = (num_alternatives - 1) / num_alternatives**2  # curvature of the loss at equal probabilities
    scale_D1 = (feature_ND.square().mean(dim=0) * even + penalty).rsqrt()[:, None]
    scaled_DK, bias_K = start.weight / scale_D1, start.bias.clone()

    def loss_and_gradient() -> Tensor:
        weight_DK = scaled_DK * scale_D1
        loss, residual_NK = _loss_and_residual(feature_ND @ weight_DK + bias_K, label)
        scaled_DK.grad = torch.addmm(weight_DK, feature_ND.T, residual_NK, beta=penalty) * scale_D1
        bias_K.grad = residual_NK.sum(dim=0)
        return penalty / 2 * weight_DK.square().sum() + loss

    solver = torch.optim.LBFGS(
        [scaled_DK, bias_K],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=tolerance,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    solver.step(loss_and_gradient)  # type: ignore[no-untyped-call]
    return Classifier(scaled_DK * scale_D1, bias_K)


def to_principal_axes(feature_ND: Tensor, train: Tensor) -> Tensor:
    """Rotates features to the training rows' principal axes: the same problem, better to solve (see :func:`fit`)."""
    axes_DD = torch.linalg.eigh(feature_ND[train].T @ feature_ND[train]).eigenvectors
    return feature_ND @ axes_DD


def standardise(feature_ND: Tensor, train: Tensor) -> Tensor:
    """Zero mean and unit deviation over the training rows; a feature that is constant there becomes zero there."""
    mean_D = feature_ND[train].mean(dim=0)
    deviation_D = feature_ND[train].std(dim=0, correction=0)
    rounding_D = 1e-6 * mean_D.abs() + 1e-12  # fp32 noise around a constant is no signal to blow up
    return (feature_ND - mean_D) / torch.where(deviation_D > rounding_D, deviation_D, 1.0)


def _loss_and_residual(logits_NK: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, mean over rows (and summed over classes), and its gradient by the logits."""
    num_rows = len(label)
    if is_multi_label(label):
        target_NK = label.to(logits_NK)
        loss = binary_cross_entropy_with_logits(logits_NK, target_NK, reduction="sum") / num_rows
        return loss, (logits_NK.sigmoid() - target_NK) / num_rows
    rows = torch.arange(num_rows)
    log_probability_NK = logits_NK.log_softmax(dim=1)
    residual_NK = log_probability_NK.exp()
    residual_NK[rows, label] -= 1
    return -log_probability_NK[rows, label].mean(), residual_NK / num_rows


def _prior(label: Tensor, num_classes: int) -> Tensor:
    """The bias to start from: fp64 [K], what predicts the labels' shares without any feature."""
    if is_multi_label(label):
        return ((label.sum(dim=0) + 0.5) / (len(label) + 1)).double().logit()
    return label.bincount(minlength=num_classes).clamp(min=0.5).double().log()
