"""Linear probe: multinomial logistic regression on frozen features, as CLIP's paper does it (arXiv 2103.00020, A.3).

L-BFGS on the whole training part; C, the inverse strength of the L2 penalty, is swept over 1e-6 ... 1e6 on the
validation part, coarse to fine, and the classifier is fitted once more on training and validation rows together.
Trade-offs: features are standardised with the training part's mean and deviation, alike for every objective, so that
one grid of C suits all of them; the search assumes that accuracy over C has one broad peak (15 fits instead of 97).
Everything is fp64 on the CPU: the same features give the same result.

Legend: N rows, D feature, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from orchestrator.errors import EvaluationError

TRAIN_FRACTION, VALIDATION_FRACTION = 0.60, 0.15  # the rest is the test part
GRID_PER_DECADE = 8
GRID_DECADES = (-6, 6)
COARSE_STEP = 16  # two decades: 1e-6, 1e-4, ... 1e6
MAX_ITERATIONS = 1000
SWEEP_TOLERANCE = 1e-3  # greatest gradient component that counts as none, in the scaled weights of fit()
FINAL_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Split:
    """Positions (int64) of the rows in each part."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class LinearProbeResult:
    """Accuracy on the test part, and how it came about."""

    accuracy: float
    validation_accuracy: float
    """Of the chosen C, before the last fit."""
    chosen_c: float
    """Inverse penalty in scikit-learn's sense: the penalty is |W|^2 / 2 against C times the summed loss."""
    num_train: int
    """Rows of the last fit: training and validation part."""
    num_test: int
    num_classes: int
    chance: float
    """Accuracy of the best constant answer on the test part."""


@dataclass(frozen=True)
class Classifier:
    """A fitted linear classifier: fp64 weight [D, K], bias [K]."""

    weight: Tensor
    bias: Tensor

    def judge(self, feature_ND: Tensor, label_N: Tensor) -> "Score":
        """How well the labels are predicted."""
        logits_NK = feature_ND @ self.weight + self.bias
        accuracy = (logits_NK.argmax(dim=1) == label_N).double().mean().item()
        return Score(accuracy, -cross_entropy(logits_NK, label_N).item())


class Score(NamedTuple):
    """Compares by accuracy; equal accuracies, common on few rows, by the likelihood of the labels."""

    accuracy: float
    log_likelihood: float
    """Mean over rows, in nats."""


def split_rows(index_N: Tensor, seed: int = 0) -> Split:
    """Deals rows to the three parts by a hash of (seed, row number).

    A row's part does not depend on which other rows there are, nor on their order.
    """
    with np.errstate(over="ignore"):  # the hash (splitmix64) is arithmetic modulo 2^64
        mixed = index_N.numpy().astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    share = torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) / 2**53)
    is_train = share < TRAIN_FRACTION
    is_test = share >= TRAIN_FRACTION + VALIDATION_FRACTION
    parts = (part.nonzero().flatten() for part in (is_train, ~is_train & ~is_test, is_test))
    return Split(*parts)


def linear_probe(feature_ND: Tensor, label_N: Tensor, num_classes: int, split: Split) -> LinearProbeResult:
    """Sweeps C, fits and judges.

    Args:
        feature_ND: any float type, finite.
        label_N: int64, 0 ... num_classes - 1.

    Raises:
        EvaluationError: a part without rows, or a training part of one class.
    """
    _check_parts(split, label_N)
    standard_ND = to_principal_axes(standardise(feature_ND.double(), split.train), split.train)
    train, validation, test = split.train, split.validation, split.test
    previous: Classifier | None = None

    def validate(c: float) -> Score:
        nonlocal previous  # the solution for a neighbouring C is a good place to start from
        previous = fit(standard_ND[train], label_N[train], num_classes, c, SWEEP_TOLERANCE, previous)
        return previous.judge(standard_ND[validation], label_N[validation])

    chosen_c, best = sweep(validate)
    both = torch.cat([train, validation])
    classifier = fit(standard_ND[both], label_N[both], num_classes, chosen_c, start=previous)
    return LinearProbeResult(
        accuracy=classifier.judge(standard_ND[test], label_N[test]).accuracy,
        validation_accuracy=best.accuracy,
        chosen_c=chosen_c,
        num_train=len(both),
        num_test=len(test),
        num_classes=num_classes,
        chance=majority_share(label_N[test]),
    )


def sweep(score: Callable[[float], Score]) -> tuple[float, Score]:
    """The C with the greatest score, and that score; of equal scores the smallest C, the strongest penalty.

    Starts from every second decade, then halves the step around the best so far down to an eighth of a decade.
    """
    last = (GRID_DECADES[1] - GRID_DECADES[0]) * GRID_PER_DECADE
    scores: dict[int, Score] = {}

    def visit(position: int) -> None:
        if 0 <= position <= last and position not in scores:
            scores[position] = score(_c_at(position))

    def best() -> int:
        return max(scores, key=lambda position: (scores[position], -position))

    for position in range(0, last + 1, COARSE_STEP):
        visit(position)
    step = COARSE_STEP // 2
    while step:
        centre = best()
        visit(centre - step)
        visit(centre + step)
        step //= 2
    return _c_at(best()), scores[best()]


def fit(
    feature_ND: Tensor,
    label_N: Tensor,
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
    if start is None:
        log_prior_K = label_N.bincount(minlength=num_classes).clamp(min=0.5).to(feature_ND).log()
        start = Classifier(feature_ND.new_zeros(num_features, num_classes), log_prior_K)
    curvature_D = feature_ND.square().mean(dim=0) * (num_classes - 1) / num_classes**2  # at equal probabilities
    scale_D1 = (curvature_D + penalty).rsqrt()[:, None]
    scaled_DK, bias_K = start.weight / scale_D1, start.bias.clone()
    rows = torch.arange(num_rows)

    def loss_and_gradient() -> Tensor:
        weight_DK = scaled_DK * scale_D1
        log_probability_NK = (feature_ND @ weight_DK + bias_K).log_softmax(dim=1)
        residual_NK = log_probability_NK.exp()
        residual_NK[rows, label_N] -= 1
        residual_NK /= num_rows
        scaled_DK.grad = torch.addmm(weight_DK, feature_ND.T, residual_NK, beta=penalty) * scale_D1
        bias_K.grad = residual_NK.sum(dim=0)
        return penalty / 2 * weight_DK.square().sum() - log_probability_NK[rows, label_N].mean()

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


def majority_share(label_N: Tensor) -> float:
    """Share of the most frequent label."""
    return (label_N.bincount().max() / len(label_N)).item()


def _c_at(position: int) -> float:
    return float(10 ** (GRID_DECADES[0] + position / GRID_PER_DECADE))


def _check_parts(split: Split, label_N: Tensor) -> None:
    sizes = {"training": len(split.train), "validation": len(split.validation), "test": len(split.test)}
    if empty := [part for part, size in sizes.items() if not size]:
        raise EvaluationError(
            f"a linear probe over {len(label_N)} rows has no row in its {', '.join(empty)} part; wanted at least one in"
            " each: use a larger evaluation set, or raise evaluation.max_samples"
        )
    if label_N[split.train].bincount().count_nonzero() < 2:
        raise EvaluationError(
            f"all {len(split.train)} training rows of a linear probe have one label; wanted two or more: use a larger"
            " evaluation set, or raise evaluation.max_samples"
        )
