"""What Ray Train and DeepSpeed cost: samples/s of the same step inside them and in a bare loop.

Both sides have the same ranks, threads, precision, objective, weights and batches in memory; they run in turn, and
each round gives one ratio. Usage: python benchmarks/overhead.py [--rounds 3] [--zero-stage 1] [--precision fp32]
"""

import argparse
import json
import os
import socket
import statistics
import time
from typing import Any

from orchestrator.env import apply_quiet_env

apply_quiet_env()
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orchestrator import columns
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import ClipSpec
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.plan import BatchPlan, WorkersPlan
from orchestrator.spec.presets import PRESETS
from orchestrator.training.step import BareEngine, Engine, to_device, train_step

CONTEXT, NUM_TOKENS = 32, 1000


def build(setting: dict[str, Any]) -> Any:
    size = PRESETS[setting["model"]]
    tokens = TokenLayout(NUM_TOKENS, CONTEXT, begin_id=0, end_id=1, pad_id=2)
    return build_objective(ClipSpec(name="clip"), ModelBuild(size, size.image_size, seed=0, tokens=tokens))


def batch(setting: dict[str, Any], rank: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rank)
    size, rows = PRESETS[setting["model"]].image_size, setting["batch"] // setting["workers"]
    tokens = generator.integers(3, NUM_TOKENS, (rows, CONTEXT), dtype=np.int32)
    tokens[:, 0], tokens[:, -1] = 0, 1
    images = generator.integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return {columns.IMAGE: images, columns.TOKENS: tokens}


def measure(engine: Engine, arrays: dict[str, np.ndarray], setting: dict[str, Any]) -> float:
    """Samples/s over all ranks, after warm-up."""
    for step in range(setting["warmup"] + setting["steps"]):
        if step == setting["warmup"]:
            dist.barrier()
            started_s = time.monotonic()
        rows = to_device(arrays, engine.objective.columns, torch.device("cpu"))
        train_step(engine, [rows])
    dist.barrier()
    return setting["steps"] * setting["batch"] / (time.monotonic() - started_s)


def optimizer() -> OptimizerSpec:
    return OptimizerSpec(learning_rate=1e-3)


def bare_rank(rank: int, setting: dict[str, Any], port: int, result: Any) -> None:
    torch.set_num_threads(setting["threads"])
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=setting["workers"])
    engine = BareEngine(build(setting), optimizer(), ScheduleSpec(), 10_000, setting["precision"])
    rate = measure(engine, batch(setting, rank), setting)
    if rank == 0:
        result.put(rate)
    dist.destroy_process_group()


def run_bare(setting: dict[str, Any]) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = mp.get_context("spawn").SimpleQueue()
    mp.spawn(bare_rank, (setting, port, result), nprocs=setting["workers"])
    return float(result.get())


def train_rank(setting: dict[str, Any]) -> float:
    import ray.train

    from orchestrator.training.engine import DeepSpeedEngine

    torch.set_num_threads(setting["threads"])
    rank, workers = ray.train.get_context().get_world_rank(), setting["workers"]
    worker_size = setting["batch"] // workers
    sizes = BatchPlan(global_size=setting["batch"], worker_size=worker_size, micro_size=worker_size, num_micro=1)
    engine = DeepSpeedEngine(
        build(setting), optimizer(), ScheduleSpec(), 10_000, setting["precision"], setting["zero_stage"], sizes, "cpu"
    )
    return measure(engine, batch(setting, rank), setting)


def run_train(setting: dict[str, Any]) -> float:
    from orchestrator.runs.worker_group import WorkerGroup

    count, threads = setting["workers"], setting["threads"]
    workers = WorkersPlan(count=count, accelerator="cpu", cpus=1, threads=threads, admissible=(count,))
    group = WorkerGroup(train_rank, setting, workers, "overhead")
    group.start()
    group.wait(timeout_s=600)
    group.forget()
    if group.failure:
        raise group.failure
    return float(group.result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="vit_tiny_64", choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--warmup", type=int, default=12, help="steps in which Ray Train's helper actors are still starting"
    )
    parser.add_argument("--zero-stage", type=int, default=1, choices=range(4))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    setting = vars(parser.parse_args())

    import ray

    from orchestrator.runs.session import start_local_ray

    start_local_ray(num_cpus=4, object_store_bytes=256 * 2**20, forked=True)
    rounds = []
    for _ in range(setting["rounds"]):
        bare, train = run_bare(setting), run_train(setting)
        rounds.append({"bare_samples_per_s": bare, "train_samples_per_s": train, "ratio": train / bare})
    ray.shutdown()
    ratios = [one["ratio"] for one in rounds]
    print(json.dumps({"setting": setting, "rounds": rounds, "ratio_median": statistics.median(ratios)}, indent=1))


if __name__ == "__main__":
    main()
