"""The fine-tuning probe on one question: reads the set's images again, trains at each share of the labels, judges."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.answers import Work
from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.fine_tune import HeadStart, fine_tune, share_of_rows
from orchestrator.evaluation.linear_probe import check_parts
from orchestrator.evaluation.questions import EvaluationSet, Question
from orchestrator.evaluation.results import POOLED, RANDOM_WEIGHTS, ProbeResult, split_part
from orchestrator.evaluation.scores import TOP5_ACCURACY, chance, class_scores
from orchestrator.objectives.objective import Objective
from orchestrator.spec.evaluation import FineTuneSpec

CopyObjective = Callable[[bool], Objective]
"""The judged model with its trained weights, or with random ones."""


def check_fine_tune_targets(sets: Sequence[EvaluationSet], spec: FineTuneSpec) -> None:
    """Raises EvaluationError for a target that no set has."""
    if wrong := spec.say_unknown([name for one in sets for name in one.targets]):
        raise EvaluationError(wrong)


def fine_tune_probes(
    one: EvaluationSet, question: Question, copy: CopyObjective, spec: FineTuneSpec, head: HeadStart | None = None
) -> list[Work]:
    """From the trained weights, and from random ones (and a head of zeros) if asked; each is done on one rank."""
    if spec.targets and question.target_name not in spec.targets:
        return []
    features = (POOLED, RANDOM_WEIGHTS) if spec.from_random_weights else (POOLED,)
    return [
        partial(answer_fine_tune, one, question, copy, spec, feature, head if feature == POOLED else None)
        for feature in features
    ]


def answer_fine_tune(
    one: EvaluationSet,
    question: Question,
    copy: CopyObjective,
    spec: FineTuneSpec,
    feature: str,
    head: HeadStart | None = None,
) -> ProbeResult:
    """Trained on training and validation part, since nothing is chosen; judged on the test part."""
    split, label = question.split, question.labels
    check_parts(split, label)
    image_NHWC = read_images(one, question)
    train = torch.cat([split.train, split.validation])
    layer_decay = 1.0 if feature == RANDOM_WEIGHTS else spec.layer_decay
    scores: dict[str, Estimate] = {}
    details: dict[str, float] = {"steps": spec.steps}
    if head is not None:
        details["classes_from_synset_rows"] = head.num_from_concepts
    for fraction in sorted(set(spec.label_fractions)):
        rows = share_of_rows(label, train, fraction)
        objective = copy(feature != RANDOM_WEIGHTS)
        num_classes = len(question.target.classes)
        judge = fine_tune(objective, image_NHWC[rows], label[rows], num_classes, spec, layer_decay, head)
        found = class_scores(judge(image_NHWC[split.test]), label[split.test], question.known_K)
        for name, score in found.items():
            base, part = split_part(name)
            if base != TOP5_ACCURACY:
                scores[f"{base}_{100 * fraction:g}_percent{part}"] = score
        details[f"num_train_{100 * fraction:g}_percent"] = len(rows)
    return question.result(
        "fine_tune",
        feature,
        scores=scores,
        chance=chance(label[split.test]),
        num_test=len(split.test),
        details=details,
    )


def read_images(one: EvaluationSet, question: Question) -> Tensor:
    """The question's images, uint8 [N, H, W, C], in the order of its rows.

    Raises:
        EvaluationError: the set is no longer what it was when its features were computed.
    """
    assert one.read_all is not None, "a set that is fine-tuned on can be read again"
    batches = list(one.read_all())
    index = torch.cat([torch.from_numpy(batch.index) for batch in batches])
    if not torch.equal(index, question.rows.index):
        raise EvaluationError(
            f"evaluation set {one.name!r} gave {len(question.rows.index)} rows, and {len(index)} or others when it was "
            f"read again for fine-tuning; judge a set that nobody writes to"
        )
    return torch.cat([torch.from_numpy(batch.image) for batch in batches])
