"""How sure a score is: percentile intervals over resampled test rows (Efron's bootstrap).

A score is a function of how often each row counts. Counted once each, the rows give the score itself; counted as often
as draws with replacement hit them, its spread. Two sets of rows of one size are resampled alike, so that scores of two
models on one evaluation set differ by the models alone. A score that no row contradicts (all right, all wrong) has an
interval without width.

Legend: R resamples, N rows, M draws.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
_SEED = 20240
_MAX_ELEMENTS = 4 * 1024**2  # of the weights that exist at a time: 32 MB

Statistic = Callable[[Tensor], Tensor]
"""Weights [R, N] to values [R]; both fp64."""


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(statistics: Mapping[str, Statistic], num_rows: int) -> dict[str, Estimate]:
    """Each statistic over all rows, with its interval over the same resamples."""
    found: dict[str, list[Tensor]] = {name: [] for name in statistics}
    for weight_RN in resample_weights(num_rows):
        for name, statistic in statistics.items():
            found[name].append(statistic(weight_RN))
    once_1N = torch.ones(1, num_rows, dtype=torch.double)
    return {
        name: _to_estimate(statistic(once_1N).item(), torch.cat(found[name])) for name, statistic in statistics.items()
    }


def estimate_over_draws(value_MN: Tensor) -> Estimate:
    """The mean of all values, with its interval over draws and rows, which are resampled independently."""
    value_MN = value_MN.double()
    num_draws, num_rows = value_MN.shape
    draw_RM = torch.cat(list(resample_weights(num_draws, seed=_SEED + 1)))
    done, means = 0, []
    for weight_RN in resample_weights(num_rows):
        chosen_RM = draw_RM[done : done + len(weight_RN)]
        means.append((chosen_RM @ value_MN * weight_RN).sum(dim=1) / (num_draws * num_rows))
        done += len(weight_RN)
    return _to_estimate(value_MN.mean().item(), torch.cat(means))


def mean_of(value_N: Tensor, within_N: Tensor | None = None) -> Statistic:
    """The weighted mean of one value a row; ``within_N`` (bool): of some of the rows alone."""
    counts_N = torch.ones_like(value_N, dtype=torch.double) if within_N is None else within_N.double()
    value_N = value_N.double() * counts_N
    return lambda weight_RN: weight_RN @ value_N / (weight_RN @ counts_N)


def resample_weights(num_rows: int, seed: int = _SEED) -> Iterator[Tensor]:
    """How often each row is drawn, fp64 [R, N] in pieces of bounded size; the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(NUM_RESAMPLES, _MAX_ELEMENTS // num_rows))
    for first in range(0, NUM_RESAMPLES, size):
        shape = (min(size, NUM_RESAMPLES - first), num_rows)
        drawn_RN = torch.randint(num_rows, shape, generator=generator)
        ones_RN = torch.ones(shape, dtype=torch.double)
        yield torch.zeros(shape, dtype=torch.double).scatter_add_(1, drawn_RN, ones_RN)


def _to_estimate(value: float, resampled_R: Tensor) -> Estimate:
    """Resamples without a value (no positive of any class, no row of a part was drawn) are left out."""
    ends = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.double)
    low, high = resampled_R.nanquantile(ends).tolist()
    return Estimate(value, low, high)
