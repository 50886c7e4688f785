"""What runs on every worker that judges and does not train. ``entry.py`` starts it."""

from typing import Any

import ray.train
import torch

from orchestrator.env import setup_logging
from orchestrator.spec.plan import load_plan
from orchestrator.storage.store import open_store
from orchestrator.training.checkpoint_folders import find_checkpoint_of
from orchestrator.training.judge import judge_checkpoint
from orchestrator.training.reports import Weights


def judge_as_worker(plan_json: str, step: int, weights: Weights) -> list[dict[str, Any]]:
    """Judge one checkpoint of the plan's run as one rank of a Ray Train worker group; rank 0 returns what was found.

    Raises:
        OrchestratorError: whatever is wrong with checkpoint or evaluation sets.
    """
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    setup_logging(rank=rank)
    plan = load_plan(plan_json, "the driver's plan")
    torch.set_num_threads(plan.workers.threads)
    store = open_store(plan.run_uri, plan.s3)
    results = judge_checkpoint(plan, store, find_checkpoint_of(store, step), weights, rank, world_size)
    return [result.to_dict(with_predictions=True) for result in results] if rank == 0 else []
