"""Each probe on one question: the part of evaluation that needs no model, done on one rank."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from orchestrator.evaluation.bootstrap import estimate_over_draws
from orchestrator.evaluation.few_shot import few_shot
from orchestrator.evaluation.linear_probe import check_parts, linear_probe
from orchestrator.evaluation.logistic_regression import standardise
from orchestrator.evaluation.nearest_neighbours import most_similar, nearest_neighbour_votes
from orchestrator.evaluation.questions import Question
from orchestrator.evaluation.results import EMBEDDING, POOLED, SYNSET_ROWS, Nearest, Predictions, ProbeResult
from orchestrator.evaluation.retrieval import CaptionPairs, Direction, retrieval
from orchestrator.evaluation.scores import best_classes, chance, class_scores, is_multi_label, vocabulary_parts
from orchestrator.evaluation.zero_shot import zero_shot, zero_shot_by_rows
from orchestrator.spec.evaluation import EvaluationSpec, FewShotSpec, NearestNeighboursSpec

Work = Callable[[], ProbeResult]


def image_probes(question: Question, spec: EvaluationSpec) -> list[Work]:
    """The probes that read images alone, each on each feature."""
    work: list[Work] = []
    for feature in question.image_features:
        if "linear_probe" in spec.probes:
            work.append(partial(answer_linear_probe, question, feature))
        if "nearest_neighbours" in spec.probes:
            work.append(partial(answer_nearest_neighbours, question, feature, spec.nearest_neighbours))
        if "few_shot" in spec.probes:
            work.append(partial(answer_few_shot, question, feature, spec.few_shot))
    return work


def answer_zero_shot(question: Question, class_KD: Tensor) -> ProbeResult:
    """All rows against the classes' prompts."""
    return _zero_shot_result(question, EMBEDDING, zero_shot(question.rows.features[EMBEDDING], class_KD))


def answer_synset_rows(question: Question, weight_KF: Tensor, bias_K: Tensor, num_unmatched: int) -> ProbeResult:
    """All rows through rows of a classifier of concepts."""
    logits_NK = zero_shot_by_rows(question.rows.features[POOLED], weight_KF, bias_K)
    return _zero_shot_result(question, SYNSET_ROWS, logits_NK, classes_without_synset=num_unmatched)


def _zero_shot_result(question: Question, feature: str, score_NK: Tensor, **details: float) -> ProbeResult:
    everything = torch.arange(len(question.labels))
    return question.result("zero_shot", feature, details=details, **_judged(question, everything, score_NK))


def answer_linear_probe(question: Question, feature: str) -> ProbeResult:
    """Fitted on the training and validation part, judged on the test part."""
    split = question.split
    found = linear_probe(question.rows.features[feature], question.labels, len(question.target.classes), split)
    details = {
        "chosen_c": found.chosen_c,
        "validation_quality": found.validation_quality,
        "num_train": found.num_train,
    }
    judged = _judged(question, split.test, found.logits)
    return question.result("linear_probe", feature, details=details, **judged)


def answer_nearest_neighbours(question: Question, feature: str, spec: NearestNeighboursSpec) -> ProbeResult:
    """Nothing is chosen, so the training part votes, and the validation part rests."""
    split = question.split
    check_parts(split, question.labels)
    feature_ND = standardise(question.rows.features[feature].double(), split.train)
    label, num_classes = question.labels, len(question.target.classes)
    vote_QK, nearest_Q = nearest_neighbour_votes(
        feature_ND[split.test], feature_ND[split.train], label[split.train], num_classes, spec.k, spec.temperature
    )
    details = {"k": spec.k, "temperature": spec.temperature, "num_train": len(split.train)}
    judged = _judged(question, split.test, vote_QK)
    if feature == POOLED:
        row = question.rows.index
        found = row[split.train[nearest_Q]]
        judged["nearest"] = Nearest(row[split.test].tolist(), found.tolist(), [-1] * len(split.test))
    return question.result("nearest_neighbours", feature, details=details, **judged)


def _judged(question: Question, position_Q: Tensor, score_QK: Tensor) -> dict[str, Any]:
    """What a record says of the rows at these positions and their ranking of classes."""
    label = question.labels[position_Q]
    found = {"scores": class_scores(score_QK, label, question.known_K), "chance": chance(label), "num_test": len(label)}
    if is_multi_label(label):
        return found
    row, predicted = question.rows.index[position_Q], best_classes(score_QK, 1).flatten()
    return found | {"predictions": Predictions(row.tolist(), label.tolist(), predicted.tolist())}


def answer_few_shot(question: Question, feature: str, spec: FewShotSpec) -> ProbeResult:
    """One accuracy for each number of shots that the training part has enough rows for."""
    if question.target.multi_label:
        return question.result("few_shot", feature, reason="rows carry several labels")
    split = question.split
    num_classes = len(question.target.classes)
    found = few_shot(question.rows.features[feature], question.labels, num_classes, split, spec.shots, spec.draws)
    left_out = ", ".join(map(str, found.left_out))
    scores = {f"accuracy_{num_shots}_shot": score for num_shots, score in found.accuracy.items()}
    for part, of_part_K in vocabulary_parts(question.known_K).items():
        if (within_N := of_part_K[question.labels[split.test]]).any():
            for num_shots, hit_MN in found.hits.items():
                scores[f"accuracy_{num_shots}_shot{part}"] = estimate_over_draws(hit_MN[:, within_N])
    return question.result(
        "few_shot",
        feature,
        scores=scores,
        chance=chance(question.labels[split.test]),
        num_test=len(split.test),
        details={"draws": spec.draws, **{f"chosen_c_{shots}_shot": c for shots, c in found.chosen_c.items()}},
        reason=f"no {left_out} shots: the smallest class has fewer training rows" if left_out else "",
    )


def answer_retrieval(
    set_name: str, row_N: Tensor, image_ND: Tensor, text_CD: Tensor, pairs: CaptionPairs, direction: Direction
) -> ProbeResult:
    """One direction; ``row_N``: the images' numbers within the set."""
    num_with_caption = len(torch.unique(pairs.image))
    return ProbeResult(
        set=set_name,
        probe="retrieval",
        target=direction,
        feature=EMBEDDING,
        named_in_captions=True,
        num_classes=pairs.num_images if direction == "text_to_image" else len(pairs.caption),
        scores=retrieval(image_ND, text_CD, pairs, direction),
        num_test=num_with_caption,
        details={"num_without_caption": pairs.num_images - num_with_caption, "num_distinct": len(pairs.texts)},
        nearest=_nearest_captions(row_N, image_ND, text_CD, pairs) if direction == "image_to_text" else None,
    )


def _nearest_captions(row_N: Tensor, image_ND: Tensor, text_CD: Tensor, pairs: CaptionPairs) -> Nearest:
    """Of each image, the most similar caption, where it is first met."""
    image_P, order_P = pairs.image.contiguous(), pairs.caption.argsort(stable=True)
    first_C = order_P[torch.searchsorted(pairs.caption[order_P], torch.arange(len(text_CD)))]
    pair_N = first_C[most_similar(image_ND, text_CD)]
    place_P = torch.arange(len(image_P)) - torch.searchsorted(image_P, image_P)
    return Nearest(row_N.tolist(), row_N[image_P[pair_N]].tolist(), place_P[pair_N].tolist())
