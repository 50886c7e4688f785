"""Average precision of a ranking, per class: precision summed over the gains in recall, not interpolated.

Rows of equal score share one threshold, so that their order does not matter. A class without a positive row has no
average precision (nan), and the mean is over the others.

Legend: R resamples, N rows, P positive rows, K classes.
"""

import torch
from torch import Tensor

from orchestrator.evaluation.bootstrap import Statistic


def average_precision(score_NK: Tensor, label_NK: Tensor) -> Tensor:
    """fp64 [K]; ``label_NK`` is bool."""
    once_1N = torch.ones(1, len(score_NK), dtype=torch.double)
    columns = range(score_NK.shape[1])
    return torch.cat([_of_class(score_NK[:, k], label_NK[:, k])(once_1N) for k in columns])


def mean_average_precision(score_NK: Tensor, label_NK: Tensor) -> Statistic:
    """The mean over classes, as a function of the rows' weights."""
    classes = [_of_class(score_NK[:, k], label_NK[:, k]) for k in range(score_NK.shape[1])]

    def statistic(weight_RN: Tensor) -> Tensor:
        sum_R = torch.zeros(len(weight_RN), dtype=torch.double)
        count_R = torch.zeros_like(sum_R)
        for one in classes:  # one at a time: all together would be K times the memory
            found_R = one(weight_RN)
            sum_R += found_R.nan_to_num()
            count_R += found_R.isfinite()
        return sum_R / count_R

    return statistic


def _of_class(score_N: Tensor, label_N: Tensor) -> Statistic:
    descending_N, order_N = score_N.sort(descending=True, stable=True)
    threshold_N = torch.unique_consecutive(descending_N, return_inverse=True)[1]
    positive_P = label_N[order_N].nonzero().flatten()
    last_P = torch.searchsorted(threshold_N, threshold_N[positive_P], right=True) - 1  # last row of the same score
    last_positive_P = torch.searchsorted(positive_P, last_P, right=True) - 1

    def statistic(weight_RN: Tensor) -> Tensor:
        weight_RN = weight_RN[:, order_N]
        weight_RP = weight_RN[:, positive_P]
        hits_RP = weight_RP.cumsum(dim=1)[:, last_positive_P]
        precision_RP = hits_RP / weight_RN.cumsum(dim=1)[:, last_P].clamp(min=1)  # 0 of 0 has no weight below
        return (weight_RP * precision_RP).sum(dim=1) / weight_RP.sum(dim=1)

    return statistic
