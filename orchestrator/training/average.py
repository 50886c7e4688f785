"""Weighted means of checkpoints of one architecture, tensor by tensor.

Uniform and greedy soups: Wortsman et al. 2022 (arXiv 2203.05482); interpolation between a model and what was
fine-tuned from it (WiSE-FT): Wortsman et al. 2022 (arXiv 2109.01903).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from orchestrator.training.made_checkpoint import WholeTensors

Shares = tuple[float, ...]
"""Of each parent; they add up to 1."""


@dataclass(frozen=True)
class Trial:
    """One mean that was judged."""

    shares: Shares
    score: float


def mean_tensors(parents: Sequence[WholeTensors], shares: Shares) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, in the order of the first parent's shapes; summed in float64, so that one parent is exact."""
    for name in parents[0].shapes:
        pairs = zip(parents, shares, strict=True)
        parts = (share * parent.read(name).double() for parent, share in pairs if share)
        total = next(parts)
        for part in parts:
            total += part
        yield name, total.float()


def uniform_shares(num_parents: int) -> Shares:
    """The same of each."""
    return (1 / num_parents,) * num_parents


def greedy_soup(num_parents: int, score: Callable[[Shares], float]) -> list[Trial]:
    """Take parents in the order of their own scores, each only if the uniform mean of those taken gets no worse.

    Returns all that was tried, the best mean last among equals.
    """
    alone = [Trial(_uniform_over({index}, num_parents), 0.0) for index in range(num_parents)]
    trials = [Trial(trial.shares, score(trial.shares)) for trial in alone]
    order = sorted(range(num_parents), key=lambda index: trials[index].score, reverse=True)
    taken, best = {order[0]}, trials[order[0]].score
    for index in order[1:]:
        shares = _uniform_over(taken | {index}, num_parents)
        trials.append(Trial(shares, score(shares)))
        if trials[-1].score >= best:
            taken, best = taken | {index}, trials[-1].score
    return trials


def interpolate(alphas: Sequence[float], score: Callable[[Shares], float]) -> list[Trial]:
    """Means of two parents with the share ``alpha`` of the second."""
    return [Trial((1 - alpha, alpha), score((1 - alpha, alpha))) for alpha in alphas]


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The highest score; of equals, the one that was tried last."""
    return max(reversed(trials), key=lambda trial: trial.score)


def _uniform_over(taken: set[int], num_parents: int) -> Shares:
    return tuple(1 / len(taken) if index in taken else 0.0 for index in range(num_parents))
