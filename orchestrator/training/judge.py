"""The trained objective as evaluation sees it, and the evaluation sets of a plan.

Joins ``evaluation`` (torch only) to storage and tokenizer. Reads the sets without Ray.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from orchestrator.data.blocks import BlockFormat
from orchestrator.data.concepts import open_finder
from orchestrator.data.evaluation_set import stack_rows
from orchestrator.data.labelled.labelled_set import RowRequest
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.evaluation.evaluate import SynsetRows, evaluate
from orchestrator.evaluation.exchange import share_from_rank_zero
from orchestrator.evaluation.questions import EvaluationSet
from orchestrator.evaluation.results import EMBEDDING, POOLED, ProbeResult
from orchestrator.objectives.objective import Objective, ZeroShotObjective
from orchestrator.objectives.synset_rows import match_classes, transfer_rows
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import EvaluationSpec, set_name
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import Store, open_store
from orchestrator.training.checkpoint_folders import StoredCheckpoint
from orchestrator.training.known_classes import known_classes
from orchestrator.training.parts import block_format, build_plan_objective
from orchestrator.training.reports import Weights
from orchestrator.training.stored_tensors import load_weights

_BATCH_SIZE = 64  # more images do not fit a core's cache: 256 took half as long again each


class JudgedObjective:
    """An objective with whole weights on its device; implements ``JudgedModel``."""

    def __init__(
        self,
        objective: Objective,
        build: Callable[[], Objective],
        format: BlockFormat,
        min_synset_similarity: float,
        device: torch.device,
    ) -> None:
        """``build``: makes the objective with fresh weights; ``format``: what its captions were read with."""
        self._objective = objective
        self._build = build
        self._format = format
        self._min_synset_similarity = min_synset_similarity
        self._device = device

    @property
    def encode_texts(self) -> Callable[[list[str]], Tensor] | None:
        """Prompts to unit vectors [N, D]; ``None`` where the objective has no text tower."""
        objective, tokenizer = self._objective, self._format.tokenizer
        if not isinstance(objective, ZeroShotObjective) or tokenizer is None:
            return None
        return lambda prompts: objective.text_embedding(
            torch.from_numpy(tokenizer.encode(prompts, self._format.context)).to(self._device)
        )

    @property
    def match_synsets(self) -> Callable[[list[str]], SynsetRows] | None:
        """Names of classes to rows of the concept classifier; ``None`` where the objective has none."""
        classifier, labeller = self._objective.concept_classifier(), self._format.labeller
        if classifier is None or labeller is None:
            return None

        def match(names: list[str]) -> SynsetRows:
            finder = open_finder(labeller.finder, labeller.s3)
            matches = match_classes(names, labeller.vocabulary, finder, self._min_synset_similarity)
            weight_KF, bias_K = transfer_rows(classifier, matches, seed=0)
            is_matched_K = torch.tensor([bool(match.outputs) for match in matches])
            return SynsetRows(weight_KF.cpu(), bias_K.cpu(), is_matched_K)

        return match

    def copy_objective(self, trained: bool) -> Objective:
        """Another objective with the judged weights, or with fresh random ones, on the same device."""
        made = self._build()
        if trained:
            made.load_state_dict(self._objective.state_dict())
        return made.to(self._device)

    def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """uint8 images to the pooled output and, where there is one, the embedding."""
        image_BHWC = image_BHWC.to(self._device)
        if not isinstance(self._objective, ZeroShotObjective):
            return {POOLED: self._objective.vision_features(image_BHWC)}
        pooled_BF, embedding_BD = self._objective.pooled_and_embedding(image_BHWC)
        return {POOLED: pooled_BF, EMBEDDING: embedding_BD}


def judged_weights(evaluation: EvaluationSpec, has_average: bool) -> tuple[Weights, ...]:
    """Which weights to judge, in order; the trained ones where there is no average."""
    if not has_average:
        return ("raw",)
    return ("raw", "ema") if evaluation.weights == "both" else (evaluation.weights,)


def judge_checkpoint(
    plan: Plan, store: Store, stored: StoredCheckpoint, weights: Weights, rank: int = 0, world_size: int = 1
) -> list[ProbeResult]:
    """``judge`` of a checkpoint of the plan's run; each rank reads all of its weights.

    Raises:
        CheckpointError: a damaged file, or an average asked for that is not there.
    """
    return judge_weights(plan, load_weights(store, stored, average=weights == "ema"), rank, world_size)


def judge_weights(plan: Plan, state: Mapping[str, Tensor], rank: int = 0, world_size: int = 1) -> list[ProbeResult]:
    """``judge`` of parameters by name, whole on every rank."""
    format = block_format(plan)
    objective = build_plan_objective(plan, format.vocabulary)
    # What is no parameter (positions, priors) is as it was built.
    objective.load_state_dict(objective.state_dict() | dict(state))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        return judge_plan(plan, objective.eval().to(device), format, device, rank, world_size)


def judge_plan(
    plan: Plan, objective: Objective, format: BlockFormat, device: torch.device, rank: int, world_size: int
) -> list[ProbeResult]:
    """``judge`` of an objective with whole weights, on the evaluation sets of its plan."""
    vocabulary = plan.evaluation_vocabulary or plan.model.vocabulary
    build = partial(build_plan_objective, plan, format.vocabulary)
    judged = JudgedObjective(objective, build, format, plan.evaluation.min_synset_similarity, device)
    return judge(
        judged, plan.evaluation, plan.evaluation_uris, plan.s3, plan.model.image_size, rank, world_size, vocabulary
    )


def judge(
    judged: JudgedObjective,
    evaluation: EvaluationSpec,
    uris: Sequence[str],
    s3: S3Spec,
    image_size: int,
    rank: int,
    world_size: int,
    vocabulary: VocabularyFacts | None = None,
) -> list[ProbeResult]:
    """All probes on all evaluation sets; all ranks call it, all get the same results.

    Args:
        vocabulary: scores are also given for classes that it holds, and for those that it does not.

    Raises:
        DatasetError: a set without an index, or of no layout that is known.
        EvaluationError: a set that cannot be judged.
    """
    sets = [
        open_evaluation_set(name, uri, s3, image_size, evaluation, rank, world_size)
        for name, uri in zip(evaluation.sets, uris, strict=True)
    ]
    if vocabulary is not None:
        sets = [replace(one, known=known_classes(vocabulary, s3, one.targets)) for one in sets]
    return evaluate(judged, sets, evaluation, rank, world_size)


def open_evaluation_set(
    name: str, uri: str, s3: S3Spec, image_size: int, evaluation: EvaluationSpec, rank: int, world_size: int
) -> EvaluationSet:
    """This rank's rows of labelled images; all ranks call it, and rank 0 lists and reads what describes the set."""
    opening = partial(open_labelled_set, open_store(uri, s3), evaluation.layouts.get(name), s3)
    found = share_from_rank_zero(opening, rank, world_size)
    captions = evaluation.caption_fields if "retrieval" in evaluation.probes else ()
    request = RowRequest(image_size, rank, world_size, evaluation.max_samples, captions)
    return EvaluationSet(
        set_name(name),
        dict(found.targets),
        stack_rows(found.read(request), _BATCH_SIZE, uri),
        num_rows=found.num_asked_for(evaluation.max_samples),
        read_all=lambda: stack_rows(found.read(replace(request, rank=0, world_size=1)), _BATCH_SIZE, uri),
        first_train_row=found.first_train_row,
    )
