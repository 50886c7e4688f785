import pytest
import torch
from torch import Tensor

from orchestrator.evaluation.average_precision import average_precision, mean_average_precision
from orchestrator.evaluation.bootstrap import resample_weights

torch.set_num_threads(1)


def naive(scores: list[float], labels: list[bool]) -> float:
    """Sum over distinct thresholds, highest first, of the gain in recall times the precision there."""
    total, last_hits = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        found = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        total += (sum(found) - last_hits) / sum(labels) * sum(found) / len(found)
        last_hits = sum(found)
    return total


def drawn(num_rows: int = 60, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    """Scores of few distinct values, so that many tie."""
    generator = torch.Generator().manual_seed(4)
    label_NK = torch.rand(num_rows, num_classes, generator=generator) < 0.3
    return (label_NK + 2 * torch.rand(num_rows, num_classes, generator=generator)).mul(4).round(), label_NK


def test_it_equals_a_naive_loop_with_ties() -> None:
    score_NK, label_NK = drawn()
    expected = [naive(score_NK[:, k].tolist(), label_NK[:, k].tolist()) for k in range(3)]
    assert average_precision(score_NK, label_NK).tolist() == pytest.approx(expected)
    assert 0.3 < min(expected) < max(expected) < 1  # not trivial


def test_it_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    score_NK, label_NK = drawn(500)
    expected = metrics.average_precision_score(label_NK.numpy(), score_NK.numpy(), average=None)
    assert average_precision(score_NK, label_NK).tolist() == pytest.approx(expected.tolist())


def test_a_weight_is_that_many_copies_of_the_row() -> None:
    score_NK, label_NK = drawn()
    weight_RN = next(resample_weights(60))[:5]
    found_R = mean_average_precision(score_NK, label_NK)(weight_RN)
    for weight_N, found in zip(weight_RN, found_R.tolist(), strict=True):
        rows = torch.arange(60).repeat_interleave(weight_N.long())
        assert found == pytest.approx(average_precision(score_NK[rows], label_NK[rows]).mean().item())


def test_a_class_without_a_positive_row_is_not_in_the_mean() -> None:
    score_NK, label_NK = drawn()
    label_NK[:, 1] = False
    precision_K = average_precision(score_NK, label_NK)
    assert precision_K.isnan().tolist() == [False, True, False]
    found = mean_average_precision(score_NK, label_NK)(torch.ones(1, 60, dtype=torch.double)).item()
    assert found == pytest.approx(precision_K[[0, 2]].mean().item())
