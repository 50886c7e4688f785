"""Linear probe: logistic regression on frozen features, as CLIP's paper does it (arXiv 2103.00020, A.3).

L-BFGS on the whole training part; C, the inverse strength of the L2 penalty, is swept over 1e-6 ... 1e6 on the
validation part, coarse to fine, and the classifier is fitted once more on training and validation rows together.
Trade-offs: features are standardised with the training part's mean and deviation, alike for every objective, so that
one grid of C suits all of them; the search assumes that accuracy over C has one broad peak (15 fits instead of 97).

Legend: N rows, D feature, K classes. Labels are int64 [N] class indices, or bool [N, K].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.logistic_regression import Classifier, Score, fit, standardise, to_principal_axes
from orchestrator.evaluation.scores import is_multi_label

TRAIN_FRACTION, VALIDATION_FRACTION = 0.60, 0.15  # the rest is the test part
GRID_PER_DECADE = 8
GRID_DECADES = (-6, 6)
COARSE_STEP = 16  # two decades: 1e-6, 1e-4, ... 1e6
SWEEP_ITERATIONS, SWEEP_TOLERANCE = 100, 1e-4
"""Of a fit that only has to tell which C is best; scikit-learn's defaults for any."""


@dataclass(frozen=True)
class Split:
    """Positions (int64) of the rows in each part."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class LinearProbeResult:
    """What the classifier says of the test part, and how it came about."""

    logits: Tensor
    """fp64 [test rows, K]"""
    validation_quality: float
    """Of the chosen C, before the last fit: accuracy, or mean average precision."""
    chosen_c: float
    """Inverse penalty in scikit-learn's sense: the penalty is |W|^2 / 2 against C times the summed loss."""
    num_train: int
    """Rows of the last fit: training and validation part."""


def split_rows(index_N: Tensor, seed: int = 0, first_train_row: int | None = None) -> Split:
    """Deals rows to the three parts by a hash of (seed, row number).

    A row's part does not depend on which other rows there are, nor on their order. Of a set with a training part of
    its own, rows from ``first_train_row`` on, that part is dealt to training and validation, and the rest is tested.
    """
    with np.errstate(over="ignore"):  # the hash (splitmix64) is arithmetic modulo 2^64
        mixed = index_N.numpy().astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    share = torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) / 2**53)
    if first_train_row is None:
        is_train = share < TRAIN_FRACTION
        is_test = share >= TRAIN_FRACTION + VALIDATION_FRACTION
    else:
        is_test = index_N < first_train_row
        is_train = ~is_test & (share < TRAIN_FRACTION / (TRAIN_FRACTION + VALIDATION_FRACTION))
    parts = (part.nonzero().flatten() for part in (is_train, ~is_train & ~is_test, is_test))
    return Split(*parts)


def linear_probe(feature_ND: Tensor, label: Tensor, num_classes: int, split: Split) -> LinearProbeResult:
    """Sweeps C and fits.

    Args:
        feature_ND: any float type, finite.
        label: class indices below ``num_classes``, or which of them apply.

    Raises:
        EvaluationError: a part without rows, or a training part of one class.
    """
    check_parts(split, label)
    standard_ND = to_principal_axes(standardise(feature_ND.double(), split.train), split.train)
    chosen_c, best, classifier = sweep_c(standard_ND, label, num_classes, split.train, split.validation)
    both = torch.cat([split.train, split.validation])
    classifier = fit(standard_ND[both], label[both], num_classes, chosen_c, start=classifier)
    return LinearProbeResult(classifier.logits(standard_ND[split.test]), best.quality, chosen_c, len(both))


def sweep_c(
    feature_ND: Tensor, label: Tensor, num_classes: int, train: Tensor, validation: Tensor
) -> tuple[float, Score, Classifier]:
    """The C that is best on the validation rows, its score there, and the classifier."""
    fitted: dict[float, Classifier] = {}
    train_ND, validation_ND = feature_ND[train], feature_ND[validation]

    def validate(c: float) -> Score:
        nearest = min(fitted, key=lambda other: abs(math.log(other / c)), default=None)
        start = None if nearest is None else fitted[nearest]  # the solution for the next C is not far
        fitted[c] = fit(train_ND, label[train], num_classes, c, SWEEP_TOLERANCE, start, SWEEP_ITERATIONS)
        return fitted[c].judge(validation_ND, label[validation])

    chosen_c, best = sweep(validate)
    return chosen_c, best, fitted[chosen_c]


def sweep(score: Callable[[float], Score]) -> tuple[float, Score]:
    """The C with the greatest score, and that score; of equal scores the smallest C, the strongest penalty.

    Starts from every second decade, upwards until two in a row are worse than the best (fits of weak penalties take
    longest), then halves the step around the best so far down to an eighth of a decade.
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
        if position - best() > COARSE_STEP:
            break
    step = COARSE_STEP // 2
    while step:
        centre = best()
        visit(centre - step)
        visit(centre + step)
        step //= 2
    return _c_at(best()), scores[best()]


def _c_at(position: int) -> float:
    return float(10 ** (GRID_DECADES[0] + position / GRID_PER_DECADE))


def check_parts(split: Split, label: Tensor) -> None:
    """Refuse parts that nothing can be fitted to, or judged by."""
    sizes = {"training": len(split.train), "validation": len(split.validation), "test": len(split.test)}
    if empty := [part for part, size in sizes.items() if not size]:
        raise EvaluationError(
            f"a linear probe over {len(label)} rows has no row in its {', '.join(empty)} part; wanted at least one in"
            " each: use a larger evaluation set, or raise evaluation.max_samples"
        )
    if (label[split.train] == label[split.train[0]]).all():
        raise EvaluationError(
            f"all {len(split.train)} training rows of a linear probe have one label; wanted two or more: use a larger"
            " evaluation set, or raise evaluation.max_samples (of a set of one's own it takes the first rows, which"
            " may be sorted by class)"
        )
    if is_multi_label(label) and not label[split.test].any():
        raise EvaluationError(
            f"none of {len(split.test)} test rows of a linear probe carries a class; wanted one at least: use a larger"
            " evaluation set, or raise evaluation.max_samples"
        )
