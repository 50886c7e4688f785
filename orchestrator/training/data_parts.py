"""From a Plan to the order of its samples and what reads them; no torch, so that a driver can ask too."""

from collections.abc import Sequence

from orchestrator.data.blocks import BlockFormat, BlockReader, SyntheticBlockReader
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder, Masks
from orchestrator.data.index import DatasetIndex, load_index
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.selection import load_selection
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.errors import DatasetError
from orchestrator.spec.facts import ShardsFacts
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import open_store


def load_indexes(plan: Plan) -> list[DatasetIndex]:
    """The indexes of the plan's data sets, without chunk tables; none for synthetic data.

    Raises:
        DatasetError: an index is not the one that the run was planned with.
    """
    indexes = []
    for shards in (source.shards for source in plan.data.sources):
        index = load_index(open_store(shards.uri, plan.s3), verify=False, chunk_tables=False)
        if index is None or index.digest != shards.digest:
            raise DatasetError(
                f"{shards.uri}: its index is not the one that the run was planned with; run the job again"
            )
        indexes.append(index)
    return indexes


def chunk_tables(indexes: Sequence[DatasetIndex]) -> list[ChunkTable]:
    """The chunks of each data set."""
    return [ChunkTable(index.shards.num_samples) for index in indexes]


def sample_order(plan: Plan, tables: Sequence[ChunkTable]) -> SampleOrder | None:
    """The order of the plan's samples; ``None`` for synthetic data, whose order is its block numbers.

    Raises:
        DatasetError: a selection of the plan is gone or damaged.
    """
    if not tables:
        return None
    datasets = [
        DatasetOrder(table, plan.seed.data, number, _kept(plan, source.shards), source.with_replacement)
        for number, (table, source) in enumerate(zip(tables, plan.data.sources, strict=True))
    ]
    return SampleOrder(datasets, _shuffle(plan), [source.weight for source in plan.data.sources])


def kept_masks(plan: Plan, tables: Sequence[ChunkTable], number: int) -> Masks:
    """The samples that a data set's selection keeps, one mask a chunk; raises as ``sample_order``."""
    return DatasetOrder(tables[number], 0, kept=_kept(plan, plan.data.sources[number].shards)).masks()


def _kept(plan: Plan, shards: ShardsFacts) -> Masks | None:
    return None if shards.selection is None else load_selection(open_store(shards.uri, plan.s3), shards.selection).kept


def block_reader(plan: Plan, layout: BlockLayout, format: BlockFormat) -> BlockReader:
    """What the read tasks execute."""
    if not isinstance(plan.data.spec, ShardsSpec):
        return SyntheticBlockReader(plan.data.num_samples, plan.seed.data, layout, format)
    shards = [source.shards for source in plan.data.sources]
    sources = [ShardsSource.now(open_store(facts.uri, plan.s3, plan.stream.cache), facts.digest) for facts in shards]
    return ShardsBlockReader(tuple(sources), plan.data.spec, _shuffle(plan), layout, format)


def _shuffle(plan: Plan) -> WindowShuffle:
    return WindowShuffle(plan.stream.window, plan.seed.data, plan.batch)
