"""Logistic regression by L-BFGS on standardised features: of one label a row, or of each class by itself.

Everything is fp64 on the CPU: the same features give the same classifier.

Legend: N rows, D feature, K classes. Labels are int64 [N] class indices (softmax), or bool [N, K] (sigmoids).
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from orchestrator.evaluation.average_precision import average_precision
from orchestrator.evaluation.scores import is_multi_label

Float64Array = npt.NDArray[np.float64]

MAX_ITERATIONS = 1000
FINAL_TOLERANCE = 1e-5
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
        loss, _ = _loss_and_residual(logits_NK.T, _target(label))
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
    max_iterations: int = MAX_ITERATIONS,
) -> Classifier:
    """Minimises mean cross-entropy + |W|^2 / (2 c N) by L-BFGS; the bias is not penalised.

    Solves for weights divided by ``scale``, which evens out the curvature of features along principal axes, so
    that tens of iterations do instead of thousands; the minimum is the same. The gradient is written out: autograd
    would cost as much again as the two matrix products. The solver is SciPy's: torch's own took longer than them.
    """
    num_rows, num_features = feature_ND.shape
    penalty = 1 / (c * num_rows)
    start = start or Classifier(feature_ND.new_zeros(num_features, num_classes), _prior(label, num_classes))
    num_alternatives = 2 if is_multi_label(label) else num_classes
    even = (num_alternatives - 1) / num_alternatives**2  # curvature of the loss at equal probabilities
    scale_D = (feature_ND.square().mean(dim=0) * even + penalty).rsqrt()
    feature_DN = feature_ND.T.contiguous()  # rows last: logits of one class lie side by side, which is faster
    target = _target(label)

    def loss_and_gradient(solution: Float64Array) -> tuple[float, Float64Array]:
        scaled_KD, bias_K1 = _parts(solution, num_classes)
        weight_KD = scaled_KD * scale_D
        loss, residual_KN = _loss_and_residual(torch.addmm(bias_K1, weight_KD, feature_DN), target)
        gradient_KD = torch.addmm(weight_KD, residual_KN, feature_ND, beta=penalty) * scale_D
        penalized = penalty / 2 * weight_KD.square().sum() + loss
        return penalized.item(), torch.cat([gradient_KD, residual_KN.sum(dim=1, keepdim=True)], 1).flatten().numpy()

    options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "gtol": tolerance, "ftol": 0.0}
    beginning = torch.cat([start.weight.T / scale_D, start.bias[:, None]], 1).flatten().numpy()
    with _threads_of_numpy().limit(limits=1, user_api="blas"):  # short vectors: threads wait for each other
        found = minimize(loss_and_gradient, beginning, jac=True, method="L-BFGS-B", options=options)
    scaled_KD, bias_K1 = _parts(found.x, num_classes)
    return Classifier((scaled_KD * scale_D).T.contiguous(), bias_K1.flatten())


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


def _parts(solution: Float64Array, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scaled weights [K, D] and bias [K, 1] of what the solver sees as one vector; views."""
    both = torch.from_numpy(solution).view(num_classes, -1)
    return both[:, :-1], both[:, -1:]


@cache
def _threads_of_numpy() -> ThreadpoolController:
    return ThreadpoolController()


def _target(label: Tensor) -> Tensor:
    """Of several labels a row fp64 [K, N]: 1 where a class applies; else the labels."""
    return label.T.double().contiguous() if is_multi_label(label) else label


def _loss_and_residual(logits_KN: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, mean over rows (and summed over classes), and its gradient by the logits."""
    num_rows = logits_KN.shape[1]
    if target.ndim == 2:
        loss = binary_cross_entropy_with_logits(logits_KN, target, reduction="sum") / num_rows
        return loss, (logits_KN.sigmoid() - target) / num_rows
    rows = torch.arange(num_rows)
    log_probability_KN = logits_KN.log_softmax(dim=0)
    residual_KN = log_probability_KN.exp()
    residual_KN[target, rows] -= 1
    return -log_probability_KN[target, rows].mean(), residual_KN.div_(num_rows)


def _prior(label: Tensor, num_classes: int) -> Tensor:
    """The bias to start from: fp64 [K], what predicts the labels' shares without any feature."""
    if is_multi_label(label):
        return ((label.sum(dim=0) + 0.5) / (len(label) + 1)).double().logit()
    return label.bincount(minlength=num_classes).clamp(min=0.5).double().log()
