"""Judges a model on evaluation sets: features on all ranks, then every fit on one rank, then all results everywhere.

Two phases, in this order and never interleaved: what all ranks do together (encoding images and prompts, in step,
since a ZeRO-3 model communicates in each forward pass), and what each does alone. Were a set's fits done before
the next set's features, a rank without a long fit would wait in that set's collectives for one that has it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from orchestrator.errors import EvaluationError
from orchestrator.evaluation.answers import Work, answer_retrieval, answer_synset_rows, answer_zero_shot, image_probes
from orchestrator.evaluation.exchange import share_work
from orchestrator.evaluation.features import FeatureSet, extract_features, extract_text_features
from orchestrator.evaluation.fine_tune import HeadStart
from orchestrator.evaluation.fine_tune_probe import check_fine_tune_targets, fine_tune_probes
from orchestrator.evaluation.questions import EvaluationSet, Question, ask
from orchestrator.evaluation.results import EMBEDDING, SYNSET_ROWS, ProbeResult
from orchestrator.evaluation.retrieval import Direction, pair_captions
from orchestrator.evaluation.zero_shot import class_embeddings
from orchestrator.objectives.objective import Objective
from orchestrator.spec.evaluation import EvaluationSpec, FineTuneSpec

logger = logging.getLogger(__name__)

Encoder = Callable[[list[str]], Tensor]
_DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class SynsetRows:
    """A linear classifier of K classes over F pooled features, fp32 on the CPU."""

    weight_KF: Tensor
    bias_K: Tensor
    is_matched_K: Tensor
    """bool: whether a concept stands for the class; else its row is drawn at random."""


class JudgedModel(Protocol):
    """A model in evaluation mode; all ranks call it equally often."""

    @property
    def encode_texts(self) -> Encoder | None:
        """Prompts to embeddings [B, D]; none: the objective trains no text tower."""

    @property
    def match_synsets(self) -> Callable[[list[str]], SynsetRows] | None:
        """Names of classes to a classifier of "pooled"; none: the objective trains no classifier of concepts."""

    def copy_objective(self, trained: bool) -> Objective:
        """Another objective with the judged weights, or with random ones; ranks call it differently often."""

    def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """uint8 on the CPU to "pooled" [B, D], and "embedding" [B, E] of length one if the objective has one."""


def evaluate(
    judged: JudgedModel, sets: Sequence[EvaluationSet], spec: EvaluationSpec, rank: int, world_size: int
) -> list[ProbeResult]:
    """All probes of all targets of all sets; all ranks must call it, and all get the same results in the same order.

    A set is encoded once, for all probes. Probes of images read the pooled output, and the embedding apart where
    there is one. What does not apply is in the results, with the reason.

    Raises:
        EvaluationError: a set without rows, a label that is no class, features that are not finite, parts too small
            or without a class, a target to fine-tune on that no set has.
    """
    check_fine_tune_targets(sets, spec.fine_tune)
    encode: Encoder | None = None
    if judged.encode_texts is not None:
        encode = partial(extract_text_features, judged.encode_texts, rank=rank, world_size=world_size)
    work: list[Work] = []
    for one in sets:
        rows = extract_features(judged.encode_images, one.batches, world_size)
        logger.info("evaluation set %s: features of %d rows", one.name, len(rows.index))
        for question in ask(one, rows):
            if "zero_shot" in spec.probes:
                work.append(_prepare_zero_shot(judged, encode, question.judged()))
            fits = image_probes(question, spec)
            if "fine_tune" in spec.probes:
                head = _prepare_head(judged, question, spec.fine_tune)
                fits += fine_tune_probes(one, question, judged.copy_objective, spec.fine_tune, head)
            work += [partial(_naming, question, fit) for fit in fits]
        if "retrieval" in spec.probes:
            work += _prepare_retrieval(encode, one.name, rows.before(one.first_train_row))
    records = share_work([partial(_as_record, item) for item in work], rank, world_size)
    return [ProbeResult.from_dict(record) for record in records]


def _naming(question: Question, fit: Work) -> ProbeResult:
    """The result of a fit; rows that nothing can be fitted to are refused with where they stand."""
    try:
        return fit()
    except EvaluationError as error:
        raise EvaluationError(
            f"evaluation set {question.set_name!r}, target {question.target_name!r}: {error}"
        ) from error


def _as_record(item: Work) -> dict[str, Any]:
    return item().to_dict(with_predictions=True)


def _prepare_zero_shot(judged: JudgedModel, encode: Encoder | None, question: Question) -> Work:
    """Encodes the prompts at once, on all ranks; what is left to do needs no model."""
    target = question.target
    if encode is not None and EMBEDDING in question.rows.features:
        if not target.templates:
            return partial(question.result, "zero_shot", EMBEDDING, reason="the target has no prompt templates")
        _check_judged(question)
        return partial(answer_zero_shot, question, class_embeddings(encode, target))
    if judged.match_synsets is not None:
        rows = judged.match_synsets(target.concepts)
        if not rows.is_matched_K.any():
            reason = "no class of the target is near a concept of the vocabulary"
            return partial(question.result, "zero_shot", SYNSET_ROWS, reason=reason)
        _check_judged(question)
        bias_K = rows.bias_K.masked_fill(~rows.is_matched_K, -torch.inf)  # then a random row is never the answer
        return partial(answer_synset_rows, question, rows.weight_KF, bias_K, int((~rows.is_matched_K).sum()))
    reason = "the objective has neither a text tower nor a classifier of concepts"
    return partial(question.result, "zero_shot", EMBEDDING, reason=reason)


def _check_judged(question: Question) -> None:
    """Refuse rows that no score comes of; before any rank goes its own way, so that all of them raise it."""
    if not len(question.labels):
        raise EvaluationError(
            f"no row of the judged part of evaluation set {question.set_name!r} is left ({question.num_left_out} rows "
            f"of the set were left out, see the log); wanted one at least: repair it, or raise evaluation.max_samples"
        )
    if not question.labels.any() and question.target.multi_label:
        raise EvaluationError(
            f"none of the {len(question.labels)} judged rows of evaluation set {question.set_name!r} carries a class "
            f"of target {question.target_name!r}; wanted one at least: label them, or raise evaluation.max_samples"
        )


def _prepare_head(judged: JudgedModel, question: Question, spec: FineTuneSpec) -> HeadStart | None:
    """Where a head starts that is to start from rows of concepts; none: at zero, as where there is no such row."""
    is_asked_for = not spec.targets or question.target_name in spec.targets
    if spec.head == "zeros" or judged.match_synsets is None or not is_asked_for:
        return None
    rows = judged.match_synsets(question.target.concepts)
    if not rows.is_matched_K.any():
        return None
    return HeadStart(rows.weight_KF, rows.bias_K, int(rows.is_matched_K.sum()))


def _prepare_retrieval(encode: Encoder | None, set_name: str, rows: FeatureSet) -> list[Work]:
    """Encodes the captions at once, on all ranks, each text once."""
    pairs = pair_captions(rows.captions)
    if encode is not None and EMBEDDING in rows.features and pairs.texts:
        image_ND, text_CD = rows.features[EMBEDDING], encode(pairs.texts)
        return [partial(answer_retrieval, set_name, rows.index, image_ND, text_CD, pairs, one) for one in _DIRECTIONS]
    reason = "the set has no captions" if not pairs.texts else "the objective has no text tower"
    return [
        partial(ProbeResult, set_name, "retrieval", one, EMBEDDING, True, num_classes=0, reason=reason)
        for one in _DIRECTIONS
    ]
