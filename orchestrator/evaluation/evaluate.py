"""Judges a model on evaluation sets: features on all ranks, then every fit on one rank, then all results everywhere.

Two phases, in this order and never interleaved: what all ranks do together (encoding images and prompts, in step,
since a ZeRO-3 model communicates in each forward pass), and what each does alone. Were a set's fits done before
the next set's features, a rank without a long fit would wait in that set's collectives for one that has it.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.exchange import share_work
from orchestrator.evaluation.features import EvaluationBatch, FeatureSet, extract_features
from orchestrator.evaluation.linear_probe import linear_probe, majority_share, split_rows
from orchestrator.evaluation.results import EMBEDDING, POOLED, SYNSET_ROWS, Probe, ProbeResult
from orchestrator.evaluation.targets import TargetSpec
from orchestrator.evaluation.zero_shot import ZeroShotResult, class_embeddings, zero_shot, zero_shot_by_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SynsetRows:
    """A linear classifier of K classes over F pooled features, fp32 on the CPU."""

    weight_KF: Tensor
    bias_K: Tensor
    num_unmatched: int
    """Classes that no concept stands for; their bias is minus infinity."""


class JudgedModel(Protocol):
    """A model in evaluation mode; all ranks call it equally often."""

    @property
    def encode_texts(self) -> Callable[[list[str]], Tensor] | None:
        """Prompts to embeddings [B, D]; none: the objective trains no text tower."""

    @property
    def match_synsets(self) -> Callable[[list[str]], SynsetRows] | None:
        """Names of classes to a classifier of "pooled"; none: the objective trains no classifier of concepts."""

    def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """uint8 on the CPU to "pooled" [B, D], and "embedding" [B, E] of length one if the objective has one."""


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images; ``batches`` holds this rank's rows and is read once."""

    name: str
    targets: dict[str, TargetSpec]
    batches: Iterable[EvaluationBatch]


@dataclass(frozen=True)
class _Question:
    """One target of one set, with the rows' labels as int64 indices of its classes."""

    set_name: str
    target_name: str
    target: TargetSpec
    rows: FeatureSet
    labels: Tensor

    def result(self, probe: Probe, feature: str, **found: Any) -> ProbeResult:
        return ProbeResult(
            set=self.set_name,
            probe=probe,
            target=self.target_name,
            feature=feature,
            named_in_captions=self.target.named_in_captions,
            num_classes=len(self.target.classes),
            **found,
        )


def evaluate(
    judged: JudgedModel, sets: Sequence[EvaluationSet], probes: Sequence[Probe], rank: int, world_size: int
) -> list[ProbeResult]:
    """All probes of all targets of all sets; all ranks must call it, and all get the same results in the same order.

    Linear probes read the pooled output, and the embedding apart where there is one. Zero-shot where it does
    not apply is in the results, with the reason.

    Raises:
        EvaluationError: a set without rows, a label that is no class, features that are not finite, parts too small.
    """
    questions = [question for one in sets for question in _ask(judged, one, world_size)]
    work: list[Callable[[], ProbeResult]] = []
    for question in questions:
        if "zero_shot" in probes:
            work.append(_prepare_zero_shot(judged, question))
        if "linear_probe" in probes:
            features = [name for name in (POOLED, EMBEDDING) if name in question.rows.features]
            work += [partial(_run_linear_probe, question, feature) for feature in features]
    records = share_work([partial(_as_record, item) for item in work], rank, world_size)
    return [ProbeResult.from_dict(record) for record in records]


def _as_record(item: Callable[[], ProbeResult]) -> dict[str, Any]:
    return item().to_dict()


def _ask(judged: JudgedModel, one: EvaluationSet, world_size: int) -> list[_Question]:
    rows = extract_features(judged.encode_images, one.batches, world_size)
    logger.info("evaluation set %s: features of %d rows", one.name, len(rows.index))
    return [
        _Question(one.name, name, target, rows, _label_indices(one.name, name, target, rows))
        for name, target in one.targets.items()
    ]


def _label_indices(set_name: str, name: str, target: TargetSpec, rows: FeatureSet) -> Tensor:
    if name not in rows.targets:
        raise EvaluationError(
            f"evaluation set {set_name!r} describes target {name!r}, but its rows carry {sorted(rows.targets)};"
            " wanted one label a row for every target in targets.json"
        )
    position = {label: i for i, label in enumerate(target.classes)}
    if unknown := sorted({label for label in rows.targets[name] if label not in position}):
        raise EvaluationError(
            f"rows of evaluation set {set_name!r} carry {unknown[:5]} for target {name!r}; wanted one of its"
            f" classes in targets.json: {list(target.classes[:20])}"
        )
    return torch.tensor([position[label] for label in rows.targets[name]])


def _prepare_zero_shot(judged: JudgedModel, question: _Question) -> Callable[[], ProbeResult]:
    """Encodes the prompts at once, on all ranks; what is left to do needs no model."""
    target = question.target
    if judged.encode_texts is not None and EMBEDDING in question.rows.features:
        if not target.templates:
            return partial(question.result, "zero_shot", EMBEDDING, reason="the target has no prompt templates")
        return partial(_run_zero_shot, question, class_embeddings(judged.encode_texts, target))
    if judged.match_synsets is not None:
        rows = judged.match_synsets([target.words_of(label) for label in target.classes])
        if rows.num_unmatched == len(target.classes):
            reason = "no class of the target is near a concept of the vocabulary"
            return partial(question.result, "zero_shot", SYNSET_ROWS, reason=reason)
        return partial(_run_zero_shot_by_rows, question, rows)
    reason = "the objective has neither a text tower nor a classifier of concepts"
    return partial(question.result, "zero_shot", EMBEDDING, reason=reason)


def _run_zero_shot(question: _Question, class_KD: Tensor) -> ProbeResult:
    return _zero_shot_result(
        question, EMBEDDING, zero_shot(question.rows.features[EMBEDDING], question.labels, class_KD)
    )


def _run_zero_shot_by_rows(question: _Question, rows: SynsetRows) -> ProbeResult:
    found = zero_shot_by_rows(question.rows.features[POOLED], question.labels, rows.weight_KF, rows.bias_K)
    return _zero_shot_result(question, SYNSET_ROWS, found, {"classes_without_synset": rows.num_unmatched})


def _zero_shot_result(
    question: _Question, feature: str, found: ZeroShotResult, details: dict[str, float] | None = None
) -> ProbeResult:
    top5 = {} if found.top5_accuracy is None else {"top5_accuracy": found.top5_accuracy}
    return question.result(
        "zero_shot",
        feature,
        accuracy=found.accuracy,
        chance=majority_share(question.labels),
        num_test=len(question.labels),
        details=top5 | (details or {}),
    )


def _run_linear_probe(question: _Question, feature: str) -> ProbeResult:
    split = split_rows(question.rows.index)
    found = linear_probe(question.rows.features[feature], question.labels, len(question.target.classes), split)
    return question.result(
        "linear_probe",
        feature,
        accuracy=found.accuracy,
        chance=found.chance,
        num_test=found.num_test,
        details={
            "chosen_c": found.chosen_c,
            "validation_accuracy": found.validation_accuracy,
            "num_train": found.num_train,
        },
    )
