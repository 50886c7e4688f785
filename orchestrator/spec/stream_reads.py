"""What a read task makes, and how often the stream then reads what it reads."""

import math

from orchestrator.spec.plan import Plan

CHUNK_SAMPLES = 64  # as in data/shard.py, which a spec may not import
MAX_TASK_SAMPLES = 2048  # a task holds their images while it runs: at 100 kB each, 200 MB a core
MAX_TASK_BLOCKS = 64


def blocks_per_task(window: int, micro_size: int, num_nodes: int) -> int:
    """Blocks of one read task at most: what a node gets of a window, so that its chunks are read by one task."""
    most = min(MAX_TASK_BLOCKS, max(1, MAX_TASK_SAMPLES // micro_size))
    return max(1, min(most, window // (micro_size * num_nodes)))


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
