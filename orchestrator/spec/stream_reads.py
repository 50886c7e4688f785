"""What a read task makes, and how often the stream then reads what it reads."""

import math
from collections.abc import Sequence

from orchestrator.spec.plan import Plan, SourcePlan

CHUNK_SAMPLES = 64  # as in data/shard.py, which a spec may not import
MAX_TASK_SAMPLES = 2048  # a task holds their images while it runs
MAX_TASK_BYTES = 256 * 2**20  # as they are stored, of the mean size: 2,048 of 131 kB; for 64 tasks of a node, 16 GiB
MAX_TASK_BLOCKS = 64


def blocks_per_task(window: int, micro_size: int, num_nodes: int, sample_bytes: float) -> int:
    """Blocks of one read task at most: what a node gets of a window, so that its chunks are read by one task.

    ``sample_bytes``: see ``mean_stored_bytes``. A task has one block at least, however large its images.
    """
    samples = min(MAX_TASK_SAMPLES, int(MAX_TASK_BYTES / max(sample_bytes, 1)))
    return max(1, min(MAX_TASK_BLOCKS, samples // micro_size, window // (micro_size * num_nodes)))


def mean_stored_bytes(sources: Sequence[SourcePlan]) -> float:
    """Of a sample in its shard, over the sources by their shares; 0 for synthetic data, which has none."""
    total = sum(source.weight for source in sources)
    shards = [(source.weight / total, source.shards) for source in sources]
    return sum(share * facts.bytes / max(1, facts.num_samples) for share, facts in shards)


def reads_per_chunk(plan: Plan) -> float:
    """How often a chunk is read on average, over the tasks of all nodes (the order is told in ``data/order.py``).

    Tasks that hold different batches of a window need the same chunks; tasks, and nodes, that hold different slots of
    its batches share only those at the borders.
    """
    stream, micro_size = plan.stream, plan.batch.micro_size
    node_samples = max(stream.window // stream.num_nodes, 1)
    depth = max(stream.window // plan.batch.global_size, 1)
    parts = min(math.ceil(node_samples / (stream.blocks_per_task * micro_size)), depth)
    border_samples = depth * micro_size * max(plan.workers.count // stream.num_nodes, 1)
    return parts * (1 - (1 - 1 / parts) ** CHUNK_SAMPLES) + CHUNK_SAMPLES / border_samples
