"""How often a plan's stream reads what it reads."""

from orchestrator.spec.plan import Plan

CHUNK_SAMPLES = 64  # as in data/shard.py, which a spec may not import


def reads_per_chunk(plan: Plan) -> float:
    """How many of a window's tasks need a chunk, on average: each holds a random part of the window."""
    window = plan.stream.window
    num_tasks = window / min(plan.stream.blocks_per_task * plan.batch.micro_size, window)
    return num_tasks * (1 - (1 - 1 / num_tasks) ** CHUNK_SAMPLES)
