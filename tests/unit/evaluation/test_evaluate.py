from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.evaluate import SynsetRows, evaluate
from orchestrator.evaluation.questions import EvaluationSet
from orchestrator.evaluation.results import ProbeResult, summarise
from orchestrator.spec.compare_scores import AskedFacts, score_names
from orchestrator.spec.evaluation import EvaluationSpec, FewShotSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.targets import TargetSpec

torch.set_num_threads(1)

COLORS = ("red", "green", "blue")
PROBES = EvaluationSpec(probes=("zero_shot", "linear_probe"))
TARGETS = {
    "color": TargetSpec(classes=COLORS, named_in_captions=True, templates=("the {}", "a {} thing")),
    "parity": TargetSpec(classes=("0", "1"), named_in_captions=False),
}


@dataclass(frozen=True)
class Batch:
    index: np.ndarray
    image: np.ndarray
    targets: dict[str, list[Any]]
    captions: list[tuple[str, ...]]


def read(num_rows: int = 120, colors: tuple[str, ...] = COLORS) -> Iterator[Batch]:
    """Images of one bright channel, the row's color; ``parity`` cannot be seen in them."""
    for first in range(0, num_rows, 32):
        index = np.arange(first, min(first + 32, num_rows))
        image = np.random.default_rng(first).integers(0, 60, (len(index), 2, 2, 3)).astype(np.uint8)
        image[np.arange(len(index)), :, :, index % 3] += 150
        targets: dict[str, list[Any]] = {"color": [colors[i % 3] for i in index], "parity": [int(i % 2) for i in index]}
        targets["bright"] = [[colors[i % 3]] * int(i % 2) for i in index]
        yield Batch(index, image, targets, [(f"the {colors[i % 3]} of {i}", "a thing") for i in index])


class Contrastive:
    """Image and text embeddings both are the color."""

    encode_texts: Callable[[list[str]], Tensor] | None
    match_synsets: Callable[[list[str]], SynsetRows] | None = None

    def __init__(self) -> None:
        self.encode_texts = lambda texts: torch.tensor([[float(c in text) for c in COLORS] for text in texts])

    def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        return {"pooled": image_BHWC.float().flatten(1), "embedding": image_BHWC.float().mean(dim=(1, 2))}


class Classifying:
    """An objective without a text tower and without an embedding, as CatLIP is."""

    encode_texts: Callable[[list[str]], Tensor] | None = None
    match_synsets: Callable[[list[str]], SynsetRows] | None = None

    def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        return {"pooled": image_BHWC.float().flatten(1)}


def by_key(results: list[ProbeResult]) -> dict[tuple[str, str, str], ProbeResult]:
    return {(found.probe, found.feature, found.target): found for found in results}


def test_rows_that_nothing_can_be_fitted_to_are_refused_with_set_and_target() -> None:
    sorted_by_class = read(colors=("red", "red", "red"))
    said = r"evaluation set 'colors', target 'color': all \d+ training rows .* one label; .*may be sorted by class"
    with pytest.raises(EvaluationError, match=said):
        evaluate(Contrastive(), [EvaluationSet("colors", TARGETS, sorted_by_class)], PROBES, 0, 1)


def test_each_probe_answers_for_each_target_and_feature() -> None:
    found = by_key(evaluate(Contrastive(), [EvaluationSet("colors", TARGETS, read())], PROBES, 0, 1))
    assert len(found) == 6
    assert found["zero_shot", "embedding", "color"].accuracy == 1.0
    assert found["zero_shot", "embedding", "color"].num_test == 120
    assert found["zero_shot", "embedding", "color"].chance == pytest.approx(1 / 3)
    for feature in ("pooled", "embedding"):
        assert found["linear_probe", feature, "color"].accuracy == 1.0
        assert found["linear_probe", feature, "color"].named_in_captions
        parity = found["linear_probe", feature, "parity"]
        assert parity.accuracy is not None
        assert parity.accuracy < 0.85  # not in the image
        assert not parity.named_in_captions


def test_scores_are_also_those_of_known_and_of_unknown_classes() -> None:
    known = {"color": (True, False, False)}
    probes = EvaluationSpec(probes=("zero_shot", "linear_probe", "few_shot"), few_shot=FewShotSpec(shots=(2,), draws=2))
    targets = {**TARGETS, "color": TARGETS["color"].model_copy(update={"templates": ("the red {}",)})}
    found = by_key(evaluate(Contrastive(), [EvaluationSet("colors", targets, read(), known=known)], probes, 0, 1))
    zero_shot = found["zero_shot", "embedding", "color"]
    parts = {part: zero_shot.scores[f"accuracy{part}"] for part in ("", "_in_vocabulary", "_outside_vocabulary")}
    assert parts["_in_vocabulary"].value == 1.0
    assert 3 * parts[""].value == pytest.approx(1 + 2 * parts["_outside_vocabulary"].value)
    assert all(part.low <= part.value <= part.high for part in parts.values())
    assert zero_shot.details["num_classes_in_vocabulary"] == 1
    few_shot = found["few_shot", "pooled", "color"].scores
    assert list(few_shot) == [f"accuracy_2_shot{part}" for part in parts]
    low, mean, high = sorted(few_shot.values(), key=lambda score: score.value)
    assert low.value <= mean.value <= high.value
    assert list(found["linear_probe", "pooled", "parity"].scores) == ["accuracy"]


def test_scores_are_those_that_a_plan_expects() -> None:
    """What a comparison may be decided by is told apart before anything runs."""
    bright = TargetSpec(classes=COLORS, named_in_captions=True, multi_label=True)
    targets = {**TARGETS, "bright": bright}
    probes = ("zero_shot", "linear_probe", "nearest_neighbours", "few_shot", "retrieval")
    spec = EvaluationSpec(probes=probes, few_shot=FewShotSpec(shots=(1, 2), draws=2))
    known = {"color": (True, False, False)}
    for judged, objective in ((Contrastive(), ClipSpec(name="clip")), (Classifying(), CatlipSpec(name="catlip"))):
        results = evaluate(judged, [EvaluationSet("colors", targets, read(), known=known)], spec, 0, 1)
        found = {name for result in results for name in result.metrics() if name.count("/") == 4} | set(
            summarise(results)
        )
        unnamed = {"it": {"colors": tuple(targets)}}
        asked = AskedFacts({"colors": targets}, divided={"colors": ("color",)}, unnamed=unnamed)
        assert found == {str(name) for name in score_names("it", objective, spec, asked)}


def test_the_most_similar_training_image_and_caption_are_told() -> None:
    probes = EvaluationSpec(probes=("nearest_neighbours", "retrieval"))
    found = by_key(evaluate(Contrastive(), [EvaluationSet("colors", TARGETS, read())], probes, 0, 1))
    neighbours = found["nearest_neighbours", "pooled", "color"]
    images, captions = neighbours.nearest, found["retrieval", "embedding", "image_to_text"].nearest
    assert images is not None
    assert captions is not None
    assert not set(images.row) & set(images.nearest)  # judged rows, rows of the training part
    assert len(images.row) == neighbours.num_test
    assert [row % 3 for row in images.row] == [row % 3 for row in images.nearest]  # the color
    assert set(images.caption) == {-1}
    assert captions.row == list(range(120))
    assert [row % 3 for row in captions.row] == [row % 3 for row in captions.nearest]
    assert set(captions.caption) == {0}  # "a thing" has no color
    assert found["nearest_neighbours", "embedding", "color"].nearest is None


def test_zero_shot_says_why_it_does_not_apply() -> None:
    contrastive = by_key(evaluate(Contrastive(), [EvaluationSet("colors", TARGETS, read())], PROBES, 0, 1))
    assert contrastive["zero_shot", "embedding", "parity"].reason == "the target has no prompt templates"
    classifying = by_key(evaluate(Classifying(), [EvaluationSet("colors", TARGETS, read())], PROBES, 0, 1))
    assert len(classifying) == 4
    for target in TARGETS:
        found = classifying["zero_shot", "embedding", target]
        assert (found.accuracy, found.chance, found.num_test) == (None, None, 0)
        assert found.reason == "the objective has neither a text tower nor a classifier of concepts"
    assert classifying["linear_probe", "pooled", "color"].accuracy == 1.0


def test_rows_of_a_concept_classifier_judge_without_a_text_tower() -> None:
    judged = Classifying()
    weight_KF = torch.eye(3).repeat(1, 4)  # each class sums its channel over the four pixels

    def match(names: list[str]) -> SynsetRows:
        known = torch.tensor([name in ("red", "green") for name in names])
        return SynsetRows(weight_KF[: len(names)], torch.where(known, 0.0, 9e9), known)

    judged.match_synsets = match
    found = by_key(
        evaluate(judged, [EvaluationSet("colors", TARGETS, read())], EvaluationSpec(probes=("zero_shot",)), 0, 1)
    )
    color = found["zero_shot", "synset_rows", "color"]
    # Blue is no concept: its row, though it would always win, is never the answer.
    assert (color.accuracy, color.num_test) == (pytest.approx(2 / 3), 120)
    assert color.details["classes_without_synset"] == 1
    assert color.metrics()["eval/colors/zero_shot.synset_rows/color/accuracy"] == color.accuracy
    assert found["zero_shot", "synset_rows", "parity"].reason.startswith("no class of the target is near a concept")


def test_only_the_probes_asked_for_run_and_sets_keep_their_order() -> None:
    sets = [EvaluationSet(name, {"color": TARGETS["color"]}, read()) for name in ("b", "a")]
    found = evaluate(Contrastive(), sets, EvaluationSpec(probes=("zero_shot",)), 0, 1)
    assert [(one.set, one.probe) for one in found] == [("b", "zero_shot"), ("a", "zero_shot")]


def test_a_label_that_is_no_class_is_named() -> None:
    one = EvaluationSet("colors", TARGETS, read(colors=("red", "green", "mauve")))
    with pytest.raises(
        EvaluationError, match=r"'colors' carry \['mauve'\] for target 'color'; wanted one of its classes"
    ):
        evaluate(Contrastive(), [one], PROBES, 0, 1)


def test_a_target_without_labels_is_named() -> None:
    targets = {"shape": TargetSpec(classes=("cube", "cone"), named_in_captions=True)}
    with pytest.raises(EvaluationError, match=r"'shape'.*rows carry \['bright', 'color', 'parity'\]"):
        evaluate(Contrastive(), [EvaluationSet("colors", targets, read())], PROBES, 0, 1)


def test_every_probe_shares_one_pass_over_the_images() -> None:
    class Counting(Contrastive):
        num_images = 0

        def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
            self.num_images += len(image_BHWC)
            return super().encode_images(image_BHWC)

    judged = Counting()
    spec = EvaluationSpec(
        probes=("zero_shot", "linear_probe", "nearest_neighbours", "few_shot", "retrieval"),
        few_shot=FewShotSpec(shots=(1, 2, 64), draws=2),
    )
    found = by_key(evaluate(judged, [EvaluationSet("colors", TARGETS, read())], spec, 0, 1))
    assert judged.num_images == 120
    assert len(found) == 2 + 3 * 4 + 2
    for feature in ("pooled", "embedding"):
        assert found["nearest_neighbours", feature, "color"].accuracy == 1.0
        few = found["few_shot", feature, "color"]
        assert list(few.scores) == ["accuracy_1_shot", "accuracy_2_shot"]
        assert few.scores["accuracy_2_shot"].value > 0.9
        assert few.reason == "no 64 shots: the smallest class has fewer training rows"
    recall = found["retrieval", "embedding", "image_to_text"].scores["recall_at_1"]
    assert recall.low <= recall.value <= recall.high


def test_a_training_part_is_fitted_to_and_never_judged() -> None:
    one = EvaluationSet("colors", {"color": TARGETS["color"]}, read(), first_train_row=50)
    spec = EvaluationSpec(probes=("zero_shot", "linear_probe", "nearest_neighbours", "retrieval"))
    for result in evaluate(Contrastive(), [one], spec, 0, 1):
        assert result.num_test == 50
        assert result.details.get("num_train", 70) >= 50  # nearest neighbours have no use for the validation part
        if result.probe == "linear_probe":
            assert (result.accuracy, result.details["num_train"]) == (1.0, 70)


def test_rows_with_several_labels_are_ranked_by_each_probe() -> None:
    targets = {"bright": TargetSpec(classes=COLORS, multi_label=True, named_in_captions=True, templates=("a {}",))}
    spec = EvaluationSpec(probes=("zero_shot", "linear_probe", "nearest_neighbours", "few_shot"))
    found = by_key(evaluate(Contrastive(), [EvaluationSet("colors", targets, read())], spec, 0, 1))
    for key, result in found.items():
        if key[0] == "few_shot":
            assert result.reason == "rows carry several labels"
        else:  # half of a color's rows carry it, no other row does
            assert result.chance is not None
            assert result.scores["mean_average_precision"].value > 2 * result.chance


def test_several_labels_where_one_is_wanted_are_named() -> None:
    targets = {"bright": TargetSpec(classes=COLORS, named_in_captions=True)}
    with pytest.raises(EvaluationError, match=r"60 rows.*none or several labels for target 'bright', such as \[\]"):
        evaluate(Contrastive(), [EvaluationSet("colors", targets, read())], PROBES, 0, 1)


def test_retrieval_says_why_it_does_not_apply() -> None:
    spec = EvaluationSpec(probes=("retrieval",))
    found = evaluate(Classifying(), [EvaluationSet("colors", TARGETS, read())], spec, 0, 1)
    assert [(one.target, one.reason) for one in found] == [
        ("image_to_text", "the objective has no text tower"),
        ("text_to_image", "the objective has no text tower"),
    ]
    bare = [Batch(one.index, one.image, one.targets, [() for _ in one.captions]) for one in read()]
    found = evaluate(Contrastive(), [EvaluationSet("colors", TARGETS, bare)], spec, 0, 1)
    assert {one.reason for one in found} == {"the set has no captions"}


@pytest.mark.parametrize("with_text_tower", [True, False])
def test_judged_rows_that_no_score_comes_of_are_named(with_text_tower: bool) -> None:
    """All judged rows are damaged, or carry none of several labels, where the set has a training part of its own."""
    judged: Any = Contrastive() if with_text_tower else Classifying()
    if not with_text_tower:
        judged.match_synsets = lambda names: SynsetRows(torch.zeros(3, 12), torch.zeros(3), torch.ones(3).bool())
    probes = EvaluationSpec(probes=("zero_shot",))

    def of_training_part(rows: Iterator[Batch]) -> Iterator[Batch]:
        return (replace(batch, index=batch.index + 5) for batch in rows)

    one = EvaluationSet("colors", {"color": TARGETS["color"]}, of_training_part(read()), 125, first_train_row=5)
    with pytest.raises(
        EvaluationError, match=r"no row of the judged part of evaluation set 'colors' is left \(5 rows of the set"
    ):
        evaluate(judged, [one], probes, 0, 1)
    bright = TARGETS["color"].model_copy(update={"multi_label": True})
    one = EvaluationSet("colors", {"bright": bright}, read(), first_train_row=1)  # row 0 is not bright
    with pytest.raises(
        EvaluationError, match=r"none of the 1 judged rows of .*'colors' carries a class of target 'bright'"
    ):
        evaluate(judged, [one], probes, 0, 1)
