"""One rank of ``test_nodes.py``: a worker that reads its blocks and trains nothing."""

from collections.abc import Iterator

import pyarrow as pa
import ray
import torch.distributed as dist

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, SyntheticBlockReader
from orchestrator.data.order import BlockLayout
from orchestrator.data.stream import BlockStream
from orchestrator.spec.batches import Batches
from orchestrator.spec.plan import StreamPlan
from orchestrator.training.nodes import NodeRanks

PLAN = StreamPlan(
    block_bytes=8 * (3 * 16**2 + 64),
    blocks_per_task=2,
    tasks_per_execution=4,
    ingest_cpus=4,
    object_store_bytes=64 * 2**20,
    window=64,
    max_concepts_per_row=4,
)


def node_number() -> int:
    """Of the node that this runs on."""
    return int(ray.get_runtime_context().get_node_id()[:7], 16)


class NodeReader(SyntheticBlockReader):
    """Says on which node it runs, in the place of the shard."""

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        for block in super().read_blocks(task):
            at = block.column_names.index(columns.SHARD)
            yield block.set_column(at, columns.SHARD, pa.array([node_number()] * block.num_rows, pa.int32()))


class Rank:
    """Reads its part of the stream."""

    def read(self, rank: int, num_ranks: int, num_steps: int, folder: str) -> dict[str, object]:
        """Where it stood, with whom, and what it got from where."""
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks)
        nodes = NodeRanks(rank, num_ranks)
        layout = BlockLayout(Batches(global_size=8 * num_ranks), 8, num_ranks)
        reader = NodeReader(1000, 0, layout, BlockFormat((columns.IMAGE,), 16, 8, 4, None, None))
        blocks = list(BlockStream(reader, None, layout, PLAN, nodes.place, nodes.share).blocks(0, num_steps))
        dist.barrier()
        dist.destroy_process_group()
        return {
            "node": node_number(),
            "peers": nodes.place.node_ranks,
            "read_on": sorted({node for block in blocks for node in block[columns.SHARD].to_pylist()}),
            "rows": [block[columns.INDEX].to_pylist() for block in blocks],
        }
