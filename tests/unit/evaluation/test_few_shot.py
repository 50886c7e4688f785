import torch
from torch import Tensor

from orchestrator.evaluation.few_shot import draw_rows, few_shot
from orchestrator.evaluation.linear_probe import linear_probe, split_rows

torch.set_num_threads(1)

NUM_CLASSES = 4


def blobs(num_rows: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    label_N = torch.arange(num_rows) % NUM_CLASSES
    centre_KD = torch.randn(NUM_CLASSES, 8, generator=generator)
    return centre_KD[label_N] + torch.randn(num_rows, 8, generator=generator), label_N


def test_more_shots_come_closer_to_the_whole_training_part() -> None:
    feature_ND, label_N = blobs()
    split = split_rows(torch.arange(len(label_N)))
    found = few_shot(feature_ND, label_N, NUM_CLASSES, split, (16, 1, 4), num_draws=3)
    values = [score.value for score in found.accuracy.values()]
    assert list(found.accuracy) == list(found.chosen_c) == [1, 4, 16]
    assert values == sorted(values)
    logits = linear_probe(feature_ND, label_N, NUM_CLASSES, split).logits
    whole = (logits.argmax(dim=1) == label_N[split.test]).double().mean().item()
    assert 1 / NUM_CLASSES < values[0] < values[-1] <= whole + 0.05
    assert all(score.low < score.value < score.high for score in found.accuracy.values())


def test_shots_that_a_class_is_too_small_for_are_said() -> None:
    feature_ND, label_N = blobs(80)
    found = few_shot(feature_ND, label_N, NUM_CLASSES, split_rows(torch.arange(80)), (1, 100, 50), num_draws=2)
    assert (list(found.accuracy), found.left_out) == ([1], (50, 100))


def test_a_draw_holds_each_class_equally_often_and_those_of_fewer_shots() -> None:
    _, label_N = blobs()
    train = split_rows(torch.arange(len(label_N))).train
    eight = draw_rows(label_N, train, 8, draw=0)
    assert label_N[eight].bincount().tolist() == [8] * NUM_CLASSES
    assert set(eight.tolist()) <= set(train.tolist())
    assert set(draw_rows(label_N, train, 2, draw=0).tolist()) < set(eight.tolist())
    assert set(draw_rows(label_N, train, 8, draw=1).tolist()) != set(eight.tolist())
