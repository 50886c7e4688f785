"""Few-shot: a linear probe on n training rows of each class, over several draws of them.

The rows of fewer shots are among those of more, so that a curve over shots compares like with like. C is swept on the
validation part once for each number of shots, on the first draw, and holds for all draws: CLIP's own few-shot results
chose it on the full validation set too (github.com/openai/CLIP, issue 128). Standardisation reads the training part
without its labels. The interval is over draws and test rows together.

Legend: N rows, D feature, K classes, M draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.evaluation.bootstrap import Estimate, estimate_over_draws
from orchestrator.evaluation.linear_probe import Split, check_parts, sweep_c
from orchestrator.evaluation.logistic_regression import fit, standardise, to_principal_axes


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy on the test part for each number of shots, fewest first."""

    accuracy: dict[int, Estimate]
    """Mean over the draws."""
    hits: dict[int, Tensor]
    """bool [M, N]: what each draw and test row gave."""
    chosen_c: dict[int, float]
    left_out: tuple[int, ...]
    """Shots that the smallest class has not enough training rows for."""


def few_shot(
    feature_ND: Tensor, label_N: Tensor, num_classes: int, split: Split, shots: Sequence[int], num_draws: int
) -> FewShotResult:
    """Judges each number of shots; labels are int64 class indices.

    Raises:
        EvaluationError: a part without rows, or a training part of one class.
    """
    check_parts(split, label_N)
    standard_ND = to_principal_axes(standardise(feature_ND.double(), split.train), split.train)
    fewest = int(label_N[split.train].bincount(minlength=num_classes).min())
    accuracy, chosen, all_hits = {}, {}, {}
    for num_shots in sorted(shot for shot in set(shots) if shot <= fewest):
        rows = [draw_rows(label_N, split.train, num_shots, draw) for draw in range(num_draws)]
        chosen[num_shots], _, start = sweep_c(standard_ND, label_N, num_classes, rows[0], split.validation)
        hits = []
        for own in rows:
            classifier = fit(standard_ND[own], label_N[own], num_classes, chosen[num_shots], start=start)
            hits.append(classifier.logits(standard_ND[split.test]).argmax(dim=1) == label_N[split.test])
        all_hits[num_shots] = torch.stack(hits)
        accuracy[num_shots] = estimate_over_draws(all_hits[num_shots])
    return FewShotResult(accuracy, all_hits, chosen, tuple(sorted(shot for shot in set(shots) if shot > fewest)))


def draw_rows(label_N: Tensor, train: Tensor, num_shots: int, draw: int) -> Tensor:
    """Positions of ``num_shots`` training rows of each class; those of fewer shots are among them."""
    generator = torch.Generator().manual_seed(draw)
    shuffled = train[torch.randperm(len(train), generator=generator)]
    by_class = shuffled[label_N[shuffled].argsort(stable=True)]
    label_of = label_N[by_class]
    place_in_class = torch.arange(len(by_class)) - torch.searchsorted(label_of, label_of)
    return by_class[place_in_class < num_shots]
