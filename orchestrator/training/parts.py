"""From a Plan to the parts of a worker: each gets its own section, never the whole Plan."""

import numpy as np

from orchestrator.data.blocks import BlockFormat, BlockReader, ShardsBlockReader, SyntheticBlockReader
from orchestrator.data.index import load_index
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.data.tokens import load_tokenizer
from orchestrator.errors import DatasetError
from orchestrator.models.towers import model_build
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import OBJECTIVES, build_objective
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import open_store
from orchestrator.wordnet.vocabulary import Vocabulary


def build_plan_objective(plan: Plan, vocabulary: Vocabulary | None) -> Objective:
    """The plan's objective with fresh weights, on the CPU, the same on every rank."""
    fractions = None if vocabulary is None else np.array(vocabulary.counts) / vocabulary.num_captions
    return build_objective(plan.objective, model_build(plan.model, plan.seed.model), fractions)


def block_format(plan: Plan) -> BlockFormat:
    """The columns that the plan's objective reads, and what makes them."""
    tokenizer, vocabulary = plan.model.tokenizer, plan.model.vocabulary
    return BlockFormat(
        content=OBJECTIVES[plan.objective.name].columns,
        image_size=plan.model.image_size,
        context=plan.model.context,
        max_concepts=plan.stream.max_concepts_per_row,
        tokenizer=load_tokenizer(tokenizer.uri, plan.s3) if tokenizer else None,
        vocabulary=load_vocabulary(plan) if vocabulary else None,
    )


def load_vocabulary(plan: Plan) -> Vocabulary:
    """The plan's concept vocabulary, from where it was prepared."""
    assert plan.model.vocabulary is not None, "a plan with concepts names its vocabulary"
    folder, _, name = plan.model.vocabulary.uri.rpartition("/")
    return Vocabulary.from_bytes(open_store(folder, plan.s3).read_bytes(name))


def sample_order(plan: Plan) -> SampleOrder | None:
    """The order of the plan's samples; ``None`` for synthetic data, whose order is its block numbers."""
    if not isinstance(plan.data.spec, ShardsSpec):
        return None
    assert plan.data.train is not None, "a plan of shards names its index"
    index = load_index(open_store(plan.data.train.uri, plan.s3), verify=False)
    if index is None or index.digest != plan.data.train.digest:
        raise DatasetError(
            f"{plan.data.train.uri}: its index is not the one that the run was planned with; run the job again"
        )
    sizes = [shard.num_samples for shard in index.shards]
    return SampleOrder(sizes, CHUNK_SAMPLES, _shuffle(plan))


def block_reader(plan: Plan, layout: BlockLayout, format: BlockFormat) -> BlockReader:
    """What the read tasks execute."""
    if not isinstance(plan.data.spec, ShardsSpec):
        return SyntheticBlockReader(plan.data.num_samples, plan.seed.data, layout, format)
    assert plan.data.train is not None, "a plan of shards names its index"
    store = open_store(plan.data.train.uri, plan.s3)
    return ShardsBlockReader(store, plan.data.train.digest, plan.data.spec, _shuffle(plan), layout, format)


def _shuffle(plan: Plan) -> WindowShuffle:
    return WindowShuffle(plan.stream.window, plan.seed.data)
