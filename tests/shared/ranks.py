"""What a distributed test does as one rank; ``run_ranks`` (tests/distributed/conftest.py) starts the ranks."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from orchestrator.collectives import rank_and_world_size
from orchestrator.objectives.objective import Objective
from orchestrator.spec.batches import Batches
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.plan import BatchPlan
from orchestrator.training import engine as engine_module
from orchestrator.training.engine import DeepSpeedEngine, Precision
from orchestrator.training.step import Batch
from tiny import GLOBAL_SIZE, global_batch

Stage = Literal[0, 1, 2, 3]


@contextmanager
def process_group(name: str, world_size: int | None = None, timeout_s: float = 120) -> Iterator[None]:
    """A gloo group of the first ``world_size`` ranks, or of all; ``name``: another one for each group of a process."""
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(name, store),
        rank=int(os.environ["RANK"]),
        world_size=world_size or int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(seconds=timeout_s),
    )
    yield
    dist.destroy_process_group()


def leave_record(folder: Path, record: Any) -> None:
    """Keeps what ``run_ranks`` returns of this rank: tensors and plain values, in dicts, lists and tuples."""
    torch.save(record, folder / f"rank-{os.environ['RANK']}.pt")


def micro_batches(step: int, num_micro: int = 1, num_captions: int = 1, global_size: int = GLOBAL_SIZE) -> list[Batch]:
    """This rank's of the first rows of the tiny global batch; all of them in a process without a group."""
    rank, world_size = rank_and_world_size()
    size = global_size // world_size // num_micro
    starts = [(rank * num_micro + index) * size for index in range(num_micro)]
    batch = global_batch(step, num_captions=num_captions)
    return [{name: column[start : start + size] for name, column in batch.items()} for start in starts]


def build_engine(
    objective: Objective,
    optimizer: OptimizerSpec,
    schedule: ScheduleSpec,
    num_steps: int,
    precision: Precision,
    stage: Stage,
    num_micro: int = 1,
    batches: Batches = Batches(global_size=GLOBAL_SIZE),
) -> DeepSpeedEngine:
    """On the CPU, for batches as ``micro_batches`` gives them; ``num_micro``: of a step of ``batches.global_size``."""
    size = batches.global_size // dist.get_world_size()
    batch = BatchPlan(**dict(batches), worker_size=size, micro_size=size // num_micro, num_micro=num_micro)
    return DeepSpeedEngine(objective, optimizer, schedule, num_steps, precision, stage, batch, "cpu")


def set_up_deepspeed() -> None:
    """Silent, and all weights spread: at ZeRO 3 it leaves small ones whole, and all of a tiny model's are small."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of its own imports
    configure = engine_module._configuration

    def configure_without_threshold(*arguments: Any) -> dict[str, Any]:
        config = configure(*arguments)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    vars(engine_module)["_configuration"] = configure_without_threshold
