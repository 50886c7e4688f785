from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.evaluate import SynsetRows, evaluate
from orchestrator.evaluation.fine_tune import (
    HeadStart,
    add_drop_path,
    fine_tune,
    layer_groups,
    mix,
    rate_factor,
    share_of_rows,
    smooth,
)
from orchestrator.evaluation.questions import EvaluationSet
from orchestrator.objectives.objective import Objective
from orchestrator.spec.evaluation import EvaluationSpec, FineTuneSpec
from orchestrator.spec.targets import TargetSpec
from tiny import build_tiny

CLASSES = ("red", "green", "blue")
SPEC = FineTuneSpec(steps=25, batch_size=16, learning_rate=3e-3, label_fractions=(0.2, 1.0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Batch:
    index: np.ndarray
    image: np.ndarray
    targets: dict[str, list[Any]]
    captions: list[tuple[str, ...]]


def read(num_rows: int = 96) -> Iterator[Batch]:
    """Noise with one channel brighter, the row's class; ``both`` says two."""
    for first in range(0, num_rows, 32):
        index = np.arange(first, min(first + 32, num_rows))
        image = np.random.default_rng(first).integers(0, 120, (len(index), 32, 32, 3)).astype(np.uint8)
        image[np.arange(len(index)), :, :, index % 3] += 100
        targets: dict[str, list[Any]] = {
            "color": [CLASSES[i % 3] for i in index],
            "both": [[CLASSES[i % 3], "any"] for i in index],
        }
        yield Batch(index, image, targets, [()] * len(index))


class Judged:
    """Trained and random weights are the same: what is learnt is learnt here."""

    encode_texts = None
    match_synsets: Callable[[list[str]], SynsetRows] | None = None

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def copy_objective(self, trained: bool) -> Objective:
        self.asked.append(trained)
        return build_tiny("catlip")

    def encode_images(self, image_BHWC: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooled": image_BHWC[:, ::8, ::8].float().flatten(1)}


TARGETS = {
    "color": TargetSpec(classes=CLASSES, named_in_captions=True),
    "both": TargetSpec(classes=(*CLASSES, "any"), multi_label=True, named_in_captions=True),
}


def test_each_share_of_the_labels_is_trained_on_from_either_start() -> None:
    judged = Judged()
    known = {"color": (True, False, False)}
    one = EvaluationSet("colors", TARGETS, read(), read_all=read, known=known)
    spec = EvaluationSpec(probes=("fine_tune",), fine_tune=SPEC)
    found = evaluate(judged, [one], spec, 0, 1)
    assert [(r.target, r.feature) for r in found] == [
        (target, feature) for target in TARGETS for feature in ("pooled", "random_weights")
    ]
    assert judged.asked == [True, True, False, False] * 2
    for result in found:
        name = "mean_average_precision" if result.target == "both" else "accuracy"
        parts = ("", "_in_vocabulary", "_outside_vocabulary") if result.target in known else ("",)
        assert list(result.scores) == [f"{name}_{share}_percent{part}" for share in (20, 100) for part in parts]
        assert result.chance is not None
        assert result.scores[f"{name}_100_percent"].value > result.chance + 0.2
        assert result.details["num_train_100_percent"] + result.num_test == 96
    assert "eval/colors/fine_tune.random_weights/color/accuracy_20_percent" in found[1].metrics()


def test_only_the_targets_asked_for_are_trained_on() -> None:
    one = EvaluationSet("colors", TARGETS, read(), read_all=read)
    tune = FineTuneSpec(steps=1, label_fractions=(1.0,), targets=("color",), from_random_weights=False)
    found = evaluate(Judged(), [one], EvaluationSpec(probes=("fine_tune",), fine_tune=tune), 0, 1)
    assert [(r.target, r.feature) for r in found] == [("color", "pooled")]


def test_a_head_starts_from_rows_of_concepts_where_that_is_asked_for_and_there_are_some() -> None:
    """One step at a rate that moves nothing shows where it began; random weights have no rows to go with them."""
    image, label = torch.from_numpy(next(read()).image), torch.arange(32) % 3
    objective = build_tiny("catlip")
    width = objective.vision_features(image[:1]).shape[1]
    start = HeadStart(torch.eye(3, width), torch.tensor([0.0, 5.0, 0.0]), 2)
    still = FineTuneSpec(steps=1, learning_rate=1e-30)
    expected = objective.eval().vision_features(image)[:, :3].detach() + start.bias_K
    torch.testing.assert_close(fine_tune(build_tiny("catlip"), image, label, 3, still, 1.0, start)(image), expected)
    assert fine_tune(build_tiny("catlip"), image, label, 3, still, 1.0)(image).abs().max() < 1e-20

    judged = Judged()
    asked: list[list[str]] = []

    def match(names: list[str]) -> SynsetRows:
        asked.append(names)
        known = torch.tensor([name != "blue" for name in names])
        return SynsetRows(torch.ones(len(names), width), torch.zeros(len(names)), known)

    judged.match_synsets = match
    tune = FineTuneSpec(steps=1, label_fractions=(1.0,), targets=("color",), head="synset_rows")
    one = EvaluationSet("colors", TARGETS, read(), read_all=read)
    trained, random = evaluate(judged, [one], EvaluationSpec(probes=("fine_tune",), fine_tune=tune), 0, 1)
    assert asked == [list(CLASSES)]
    assert trained.details["classes_from_synset_rows"] == 2
    assert "classes_from_synset_rows" not in random.details


def test_a_target_that_no_set_has_is_named() -> None:
    spec = EvaluationSpec(probes=("fine_tune",), fine_tune=FineTuneSpec(targets=("colour",)))
    with pytest.raises(EvaluationError, match=r"names \['colour'\]; the sets have \['both', 'color'\]"):
        evaluate(Judged(), [EvaluationSet("colors", TARGETS, read(), read_all=read)], spec, 0, 1)


def test_a_set_that_changes_while_it_is_judged_is_named() -> None:
    one = EvaluationSet("colors", {"color": TARGETS["color"]}, read(), read_all=lambda: read(64))
    spec = EvaluationSpec(probes=("fine_tune",), fine_tune=SPEC)
    with pytest.raises(EvaluationError, match=r"'colors' gave 96 rows, and 64 or others when it was read again"):
        evaluate(Judged(), [one], spec, 0, 1)


def test_the_same_seeds_give_the_same_classifier() -> None:
    batch = next(read())
    image, label = torch.from_numpy(batch.image), torch.arange(32) % 3
    spec = FineTuneSpec(steps=3, batch_size=8, drop_path=0.5, mixup=1.0)
    first, second = (fine_tune(build_tiny("clip"), image, label, 3, spec, 0.75)(image) for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() > 0


def test_the_learning_rate_falls_from_the_head_down() -> None:
    tower = build_tiny("catlip").towers()["vision"]
    head = torch.nn.Linear(3, 2)
    spec = FineTuneSpec(learning_rate=0.1, weight_decay=0.3)
    groups = layer_groups(tower, head, spec, 0.5)
    rate_of = {id(parameter): group["rate"] for group in groups for parameter in group["params"]}
    assert len(rate_of) == len(list(tower.parameters())) + 2
    for name, parameter in tower.named_parameters():
        depth = 2 if ".layers.1." in f".{name}" else 1 if ".layers.0." in f".{name}" else 3 if "post" in name else 0
        assert rate_of[id(parameter)] == pytest.approx(0.1 * 0.5 ** (3 - depth)), name
    assert rate_of[id(head.weight)] == 0.1
    for group in groups:
        assert {parameter.ndim >= 2 for parameter in group["params"]} == {group["weight_decay"] == 0.3}


def test_drop_path_passes_rows_by_in_training_alone_and_keeps_the_expectation() -> None:
    objective = build_tiny("catlip").eval()
    tower = objective.towers()["vision"]
    layer = next(module for name, module in tower.named_modules() if name.endswith("layers.1"))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    layer.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    hooks = add_drop_path(tower, 0.25, torch.Generator().manual_seed(0))
    assert len(hooks) == 1  # the first layer is never passed by
    layer.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    image = torch.randint(0, 256, (200, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        objective.vision_features(image)
        assert torch.equal(seen[0][1], seen[1][1])
        seen.clear()
        tower.train()
        objective.vision_features(image)
    (before, whole), (_, dropped) = seen
    scale_B = ((dropped - before).flatten(1).norm(dim=1) / (whole - before).flatten(1).norm(dim=1)).round(decimals=3)
    torch.testing.assert_close(torch.unique(scale_B), torch.tensor([0, 4 / 3]), atol=1e-3, rtol=0)
    assert (scale_B > 0).float().mean() == pytest.approx(0.75, abs=0.1)


def test_mixup_takes_one_share_of_images_and_targets() -> None:
    image = torch.stack([torch.full((2, 2, 3), 10 * row, dtype=torch.uint8) for row in range(6)])
    mixed, target = mix(image, torch.eye(6), 1.0, torch.Generator().manual_seed(1))
    own = 10 * torch.arange(6.0)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(mixed[:, 0, 0, 0].float(), target @ own, atol=0.5, rtol=0)
    assert not torch.equal(target, torch.eye(6))
    assert mix(image, torch.eye(6), 0.0, torch.Generator())[0] is image


def test_label_smoothing_spreads_a_share_of_the_target() -> None:
    spec = FineTuneSpec(label_smoothing=0.2)
    one = smooth(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), spec)
    torch.testing.assert_close(one, torch.tensor([[0.1, 0.9]]))
    several = smooth(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[True, True, False]]), spec)
    torch.testing.assert_close(several, torch.tensor([[0.9, 0.9, 0.1]]))


def test_a_share_of_the_rows_holds_each_class_and_grows() -> None:
    label, rows = torch.arange(200) % 4, torch.arange(0, 200)
    few, more = share_of_rows(label, rows, 0.01), share_of_rows(label, rows, 0.1)
    assert sorted(label[few].tolist()) == [0, 1, 2, 3]
    assert label[more].bincount().tolist() == [5, 5, 5, 5]
    assert set(few.tolist()) < set(more.tolist())
    assert len(share_of_rows(label[:, None] == torch.arange(4), rows, 0.1)) == 20


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 1e-3
