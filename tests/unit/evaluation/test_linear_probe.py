import math

import pytest
import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.average_precision import average_precision
from orchestrator.evaluation.linear_probe import LinearProbeResult, Split, linear_probe, split_rows, sweep
from orchestrator.evaluation.logistic_regression import Score, fit, standardise, to_principal_axes
from orchestrator.evaluation.scores import chance

torch.set_num_threads(1)


def blobs(num_rows: int, num_classes: int, distance: float, num_features: int = 12) -> tuple[Tensor, Tensor]:
    """Normal clouds around random centres; features have very different means and scales."""
    generator = torch.Generator().manual_seed(7)
    label_N = torch.arange(num_rows) % num_classes
    centre_KD = distance * torch.randn(num_classes, num_features, generator=generator)
    feature_ND = centre_KD[label_N] + torch.randn(num_rows, num_features, generator=generator)
    scale_D = torch.logspace(-2, 2, num_features)
    return feature_ND * scale_D + 10 * scale_D, label_N


def accuracy(found: LinearProbeResult, label_N: Tensor, split: Split) -> float:
    return (found.logits.argmax(dim=1) == label_N[split.test]).double().mean().item()


def loss_of(weight_DK: Tensor, bias_K: Tensor, feature_ND: Tensor, label_N: Tensor, c: float) -> float:
    logits_NK = feature_ND @ weight_DK + bias_K
    penalty = weight_DK.square().sum() / (2 * c * len(label_N))
    return (torch.nn.functional.cross_entropy(logits_NK, label_N) + penalty).item()


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("c", [1e-4, 1e-1, 1e2])
def test_fit_reaches_scikit_learns_minimum(num_classes: int, c: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    feature_ND, label_N = blobs(300, num_classes, distance=0.5)
    feature_ND = standardise(feature_ND.double(), torch.arange(300))
    ours = fit(feature_ND, label_N, num_classes, c)
    # For two classes scikit-learn fits one logit w; our -w/2 and w/2 have half its penalty.
    theirs_c = 2 * c if num_classes == 2 else c
    theirs = linear_model.LogisticRegression(C=theirs_c, tol=1e-9, max_iter=10_000)
    theirs.fit(feature_ND.numpy(), label_N.numpy())
    weight_DK, bias_K = torch.from_numpy(theirs.coef_.T.copy()), torch.from_numpy(theirs.intercept_)
    if num_classes == 2:
        weight_DK, bias_K = torch.cat([-weight_DK, weight_DK], 1) / 2, torch.cat([-bias_K, bias_K]) / 2
    assert torch.allclose(ours.weight, weight_DK, rtol=1e-3, atol=1e-3 * weight_DK.abs().max().item())
    least = loss_of(weight_DK, bias_K, feature_ND, label_N, c)
    assert loss_of(ours.weight, ours.bias, feature_ND, label_N, c) == pytest.approx(least, abs=1e-7)


def test_a_fit_in_principal_axes_is_the_same_classifier() -> None:
    feature_ND, label_N = blobs(200, 4, distance=0.5)
    feature_ND = standardise(feature_ND.double(), torch.arange(200))
    feature_ND[:, 1] += 3 * feature_ND[:, 0]
    rotated_ND = to_principal_axes(feature_ND, torch.arange(200))
    plain, rotated = fit(feature_ND, label_N, 4, 1.0), fit(rotated_ND, label_N, 4, 1.0)
    assert torch.allclose(feature_ND @ plain.weight, rotated_ND @ rotated.weight, atol=0.02)


def test_separable_classes_are_told_apart_and_shuffled_ones_are_not() -> None:
    feature_ND, label_N = blobs(400, 4, distance=5)
    split = split_rows(torch.arange(400))
    found = linear_probe(feature_ND, label_N, 4, split)
    assert accuracy(found, label_N, split) == 1.0
    assert found.num_train == len(split.train) + len(split.validation)
    shuffled_N = label_N[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    assert accuracy(linear_probe(feature_ND, shuffled_N, 4, split), shuffled_N, split) < 0.45


def test_accuracy_is_that_of_scikit_learn_at_the_same_c() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    feature_ND, label_N = blobs(600, 5, distance=0.6)
    split = split_rows(torch.arange(600))
    found = linear_probe(feature_ND, label_N, 5, split)
    standard_ND = standardise(feature_ND.double(), split.train).numpy()
    both = torch.cat([split.train, split.validation])
    theirs = linear_model.LogisticRegression(C=found.chosen_c, tol=1e-8, max_iter=10_000)
    theirs.fit(standard_ND[both], label_N[both].numpy())
    theirs_accuracy = theirs.score(standard_ND[split.test], label_N[split.test].numpy())
    assert 0.5 < accuracy(found, label_N, split) < 1  # not trivial
    assert accuracy(found, label_N, split) == pytest.approx(theirs_accuracy, abs=1.5 / len(split.test))


def test_the_sweep_prefers_a_strong_penalty_where_most_features_are_noise() -> None:
    generator = torch.Generator().manual_seed(3)
    label_N = torch.arange(600) % 2
    feature_ND = torch.randn(600, 300, generator=generator)
    feature_ND[:, 0] += 3 * label_N
    split = split_rows(torch.arange(600))
    found = linear_probe(feature_ND, label_N, 2, split)
    assert 1e-4 < found.chosen_c < 1
    standard_ND = standardise(feature_ND.double(), split.train)
    chosen, weaker, stronger = (
        fit(standard_ND[split.train], label_N[split.train], 2, c).judge(standard_ND[split.test], label_N[split.test])
        for c in (found.chosen_c, 1e4, 1e-6)
    )
    assert chosen.log_likelihood > max(weaker.log_likelihood, stronger.log_likelihood) + 0.1


def test_the_result_does_not_depend_on_the_scale_of_the_features() -> None:
    feature_ND, label_N = blobs(300, 3, distance=0.5)
    split = split_rows(torch.arange(300))
    scaled = linear_probe(1024 * feature_ND - 64, label_N, 3, split)
    plain = linear_probe(feature_ND, label_N, 3, split)
    expected = accuracy(plain, label_N, split)
    assert accuracy(scaled, label_N, split) == pytest.approx(expected, abs=1.5 / len(split.test))


@pytest.mark.parametrize("peak", [1e-6, 3e-4, 1.0, 4.2e3, 1e6])
def test_the_sweep_finds_a_single_peak_to_an_eighth_of_a_decade_in_15_scores(peak: float) -> None:
    visited: list[float] = []

    def score(c: float) -> Score:
        visited.append(c)
        return Score(quality=-abs(math.log10(c / peak)), log_likelihood=0.0)

    chosen_c, _ = sweep(score)
    assert abs(math.log10(chosen_c / peak)) <= 1 / 16 + 1e-9
    assert len(visited) == len(set(visited)) <= 15


def test_equal_accuracies_are_told_apart_by_likelihood_and_then_by_the_penalty() -> None:
    assert sweep(lambda c: Score(0.5, -abs(math.log10(c) - 2)))[0] == pytest.approx(100)
    assert sweep(lambda c: Score(0.5, 0.0))[0] == pytest.approx(1e-6)


def test_standardising_reads_the_training_rows_only() -> None:
    feature_ND = torch.tensor([[1.0, 5.0], [3.0, 5.0], [100.0, 6.0]], dtype=torch.double)
    expected = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [98.0, 1.0]], dtype=torch.double)
    assert torch.equal(standardise(feature_ND, torch.tensor([0, 1])), expected)


def test_parts_hold_every_row_once_in_the_right_shares() -> None:
    split = split_rows(torch.arange(10_000))
    parts = (split.train, split.validation, split.test)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(10_000))
    assert [len(part) / 10_000 for part in parts] == pytest.approx([0.60, 0.15, 0.25], abs=0.02)


def test_a_rows_part_depends_on_its_number_and_the_seed_alone() -> None:
    all_rows = torch.arange(1000)
    some_rows = all_rows[::7].flip(0)
    in_test = set(split_rows(all_rows).test.tolist())
    assert {row for row in some_rows.tolist() if row in in_test} == set(some_rows[split_rows(some_rows).test].tolist())
    assert in_test != set(split_rows(all_rows, seed=1).test.tolist())


def test_a_training_part_of_its_own_is_dealt_to_training_and_validation() -> None:
    split = split_rows(torch.arange(10_000), first_train_row=2000)
    assert split.test.tolist() == list(range(2000))
    assert sorted([*split.train.tolist(), *split.validation.tolist()]) == list(range(2000, 10_000))
    assert len(split.validation) / 8000 == pytest.approx(0.2, abs=0.02)


def test_parts_that_are_too_small_are_named() -> None:
    feature_ND, label_N = blobs(8, 2, distance=1)
    rows = torch.arange(8)
    with pytest.raises(EvaluationError, match=r"8 rows has no row in its validation part.*max_samples"):
        linear_probe(feature_ND, label_N, 2, Split(rows[:4], rows[:0], rows[4:]))
    with pytest.raises(EvaluationError, match="all 4 training rows of a linear probe have one label"):
        linear_probe(feature_ND, label_N, 2, Split(rows[::2], rows[1:3], rows[3:]))


def test_chance_is_the_most_frequent_labels_share_or_the_mean_share_of_several() -> None:
    assert chance(torch.tensor([2, 0, 2, 2])) == 0.75
    assert chance(torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()) == 0.75


def several_labels(num_rows: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Each class has a direction of its own; a row carries any number of classes."""
    generator = torch.Generator().manual_seed(seed)
    label_NK = torch.rand(num_rows, num_classes, generator=generator) < 0.3
    feature_ND = label_NK.float() @ torch.randn(num_classes, 10, generator=generator)
    return feature_ND + torch.randn(num_rows, 10, generator=generator), label_NK


def test_of_several_labels_each_is_fitted_as_scikit_learn_fits_it_alone() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    feature_ND, label_NK = several_labels(300, 3)
    feature_ND = standardise(feature_ND.double(), torch.arange(300))
    ours = fit(feature_ND, label_NK, 3, 0.1, tolerance=1e-7)
    for k in range(3):
        theirs = linear_model.LogisticRegression(C=0.1, tol=1e-9, max_iter=10_000).fit(feature_ND, label_NK[:, k])
        assert torch.allclose(ours.weight[:, k], torch.from_numpy(theirs.coef_[0].copy()), rtol=1e-3, atol=1e-4)
        assert ours.bias[k].item() == pytest.approx(theirs.intercept_[0], rel=1e-3)


def test_a_probe_of_several_labels_ranks_the_rows_of_each() -> None:
    feature_ND, label_NK = several_labels(600, 4)
    split = split_rows(torch.arange(600))
    found = linear_probe(feature_ND, label_NK, 4, split)
    precision = average_precision(found.logits, label_NK[split.test]).mean().item()
    assert precision > 2 * chance(label_NK[split.test])
    assert found.validation_quality == pytest.approx(precision, abs=0.1)


def test_several_labels_of_which_none_is_in_the_test_part_are_refused() -> None:
    feature_ND, label_NK = several_labels(100, 2)
    split = split_rows(torch.arange(100))
    label_NK[split.test] = False
    with pytest.raises(EvaluationError, match=r"none of \d+ test rows"):
        linear_probe(feature_ND, label_NK, 2, split)
