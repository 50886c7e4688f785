"""From a Plan to the parts of a worker: each gets its own section, never the whole Plan."""

import numpy as np

from orchestrator.data.blocks import BlockFormat
from orchestrator.data.concepts import Labeller, open_labeller, open_vocabulary
from orchestrator.data.tokens import open_tokenizer
from orchestrator.models.compilation import compile_layers
from orchestrator.models.towers import model_build
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.facts import VocabularyFacts
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.objective import CatlipSpec
from orchestrator.spec.plan import Plan
from orchestrator.training.engine import DeepSpeedEngine
from orchestrator.wordnet.vocabulary import Vocabulary


def build_plan_objective(plan: Plan, vocabulary: Vocabulary | None) -> Objective:
    """The plan's objective with fresh weights, on the CPU, the same on every rank."""
    fractions = None if vocabulary is None else np.array(vocabulary.counts) / vocabulary.num_captions
    return build_objective(plan.objective, model_build(plan.model, plan.seed.model), fractions)


def build_plan_engine(plan: Plan, objective: Objective) -> DeepSpeedEngine:
    """The plan's engine over an objective that has its first weights; a collective.

    Raises:
        CompilerMissingError: the plan compiles, and this machine has no compiler.
    """
    if plan.model.compile:
        compile_layers(objective, plan.workers.accelerator)
    return DeepSpeedEngine(
        objective,
        plan.optimizer,
        plan.schedule,
        plan.steps,
        plan.precision,
        plan.zero_stage,
        plan.batch,
        plan.workers.accelerator,
    )


def block_format(plan: Plan) -> BlockFormat:
    """The columns that the plan's objective reads, and what makes them."""
    tokenizer, vocabulary = plan.model.tokenizer, plan.model.vocabulary
    return BlockFormat(
        content=plan.objective.columns,
        image_size=plan.model.image_size,
        context=plan.model.context,
        max_concepts=plan.stream.max_concepts_per_row,
        tokenizer=open_tokenizer(tokenizer, plan.s3) if tokenizer else None,
        labeller=_open_labeller(plan, vocabulary) if vocabulary else None,
        annotations=plan.data.annotations,
        image_sizes=plan.model.image_sizes,
    )


def _open_labeller(plan: Plan, facts: VocabularyFacts) -> Labeller:
    vocabulary = open_vocabulary(facts, plan.s3)
    spec, data = plan.objective, plan.data.spec
    assert isinstance(spec, CatlipSpec), "only its plans have a vocabulary"
    stored_fields = data.drawn_fields if spec.labels == "stored" and isinstance(data, ShardsSpec) else None
    return open_labeller(vocabulary, facts.finder, plan.s3, stored_fields, spec.no_concept == "resample")
