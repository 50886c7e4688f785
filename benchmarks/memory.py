"""Memory of a training device at its peak: what `orchestrator plan` estimates against what is allocated.

    python benchmarks/memory.py [--model vit_tiny_64 --batch 16] [--json FILE]

Each case is a few real steps of the engine over gloo ranks on the CPU, every allocation of torch's allocator counted by
its profiler from before the model is built. DeepSpeed's communication buckets have a fixed size, as large as a small
model many times over; they are told apart by it and left out on both sides. What CUDA adds (its context, workspaces of
libraries, fragmentation) is not seen here.
"""

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, FinderFacts, MachineFacts, TokenizerFacts, VocabularyFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.memory import BUCKET_ELEMENTS, device_memory
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan

NUM_TOKENS, NUM_CONCEPTS, STEPS = 8192, 4096, 2
CASES: list[dict[str, Any]] = [
    *({"objective": "clip", "precision": "bf16", "zero_stage": stage, "ranks": 2} for stage in range(4)),
    *({"objective": "clip", "precision": "fp32", "zero_stage": stage, "ranks": 2} for stage in (0, 2)),
    {"objective": "clip", "precision": "bf16", "zero_stage": 0, "ranks": 1},
    {"objective": "siglip", "precision": "bf16", "zero_stage": 1, "ranks": 2},
    {"objective": "catlip", "precision": "bf16", "zero_stage": 2, "ranks": 2},
    {"objective": "catlip", "precision": "fp32", "zero_stage": 0, "ranks": 2},
    {"objective": "clip", "precision": "bf16", "zero_stage": 2, "ranks": 2, "micro": 4},
    {"objective": "clip", "precision": "bf16", "zero_stage": 2, "ranks": 2, "activation_checkpointing": True},
    {"objective": "clip", "precision": "bf16", "zero_stage": 1, "ranks": 2, "variant": "openai"},
    {"objective": "clip", "precision": "bf16", "zero_stage": 1, "ranks": 2, "attention": "eager"},
]


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_64")
    parser.add_argument("--batch", type=int, default=16, help="samples of a worker")
    parser.add_argument("--case", type=int, action="append", help="number of a case; repeatable; default: all")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    results = []
    for number in arguments.case if arguments.case is not None else range(len(CASES)):
        case = {"model": arguments.model, "batch": arguments.batch, **CASES[number]}
        estimated = device_memory(make_plan(case), buffers=False)
        measured = measure(case)
        found = {**case, "estimated_mb": round(estimated.total / 1e6, 1), "measured_mb": round(measured / 1e6, 1)}
        results.append({**found, "ratio": round(estimated.total / measured, 3)})
        print(json.dumps(results[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def make_plan(case: dict[str, Any]) -> Plan:
    """The plan of a case, as `orchestrator plan` would make it."""
    job = PretrainSpec.model_validate(
        {
            "kind": "pretrain",
            "name": "memory",
            "objective": {"name": case["objective"]},
            "data": {"kind": "synthetic"},
            "model": {"preset": case["model"]}
            | {key: case[key] for key in ("activation_checkpointing", "variant", "attention") if key in case},
            "batch": {"global_size": case["batch"] * case["ranks"], "micro_size": case.get("micro")},
            "budget": {"steps": STEPS},
            "optimizer": {"learning_rate": 1e-4},
            "precision": case["precision"],
            "zero_stage": case["zero_stage"],
        }
    )
    workers = {"count": case["ranks"], "accelerator": "cpu"}
    storage = {"data": "file:///data", "runs": "file:///runs"}
    cluster = ClusterSpec.model_validate({"name": "here", "workers": workers, "storage": storage})
    finder = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    facts = Facts(
        machine=MachineFacts(num_cores=8, num_cpus=16, decoder="none"),
        tokenizer=TokenizerFacts(
            uri="t", digest="", vocabulary_size=NUM_TOKENS, begin_id=NUM_TOKENS - 2, end_id=NUM_TOKENS - 1, pad_id=0
        ),
        vocabulary=VocabularyFacts(uri="v", digest="", size=NUM_CONCEPTS, finder=finder),
    )
    return resolve_plan(job, cluster, facts)


def measure(case: dict[str, Any]) -> int:
    """Greatest number of bytes that one of the ranks had allocated at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [spawn.Process(target=train, args=(case, rank, port, folder)) for rank in range(case["ranks"])]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        return max(int((Path(folder) / f"{rank}").read_text()) for rank in range(case["ranks"]))


def train(case: dict[str, Any], rank: int, port: int, folder: str) -> None:
    """One rank: builds, steps, and leaves its peak in a file."""
    import logging
    import warnings

    import torch
    import torch.distributed as dist

    from orchestrator.models.towers import model_build
    from orchestrator.objectives.table import build_objective
    from orchestrator.training.engine import DeepSpeedEngine
    from orchestrator.training.step import to_device, train_step

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case["ranks"]))
    store = dist.TCPStore("127.0.0.1", port, is_master=rank == 0, world_size=case["ranks"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case["ranks"])
    plan = make_plan(case)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        objective = build_objective(plan.objective, model_build(plan.model, 0), concept_fractions(plan))
        schedule = (plan.steps, plan.precision, plan.zero_stage)
        engine = DeepSpeedEngine(objective, plan.optimizer, plan.schedule, *schedule, plan.batch, "cpu")
        started_ns = time.time_ns()
        for step in range(STEPS):
            batches = [to_device(arrays, objective.columns, engine.device) for arrays in random_batches(plan, step)]
            train_step(engine, batches)
    Path(folder, str(rank)).write_text(str(peak_bytes(profile, started_ns)))
    dist.destroy_process_group()


def concept_fractions(plan: Plan) -> Any:
    import numpy as np

    return np.full(NUM_CONCEPTS, 1e-3) if plan.objective.reads_concepts else None


def random_batches(plan: Plan, step: int) -> list[dict[str, Any]]:
    """The micro batches of one step."""
    import numpy as np

    rng, size, pixels = np.random.default_rng(step), plan.batch.micro_size, plan.model.image_size
    arrays = {
        "image": lambda: rng.integers(0, 256, (size, pixels, pixels, 3), dtype=np.uint8),
        "tokens": lambda: rng.integers(1, NUM_TOKENS, (size, plan.model.context), dtype=np.int32),
        "concepts": lambda: rng.integers(0, NUM_CONCEPTS, (size, 8), dtype=np.int32),
    }
    return [{name: arrays[name]() for name in plan.objective.columns} for _ in range(plan.batch.num_micro)]


def peak_bytes(profile: Any, started_ns: int) -> int:
    """From the profiler's record of every allocation and release, of steps alone; buckets are left out."""
    buckets = {BUCKET_ELEMENTS * size for size in (2, 4)}
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if abs(event.nbytes()) not in buckets:
            held += event.nbytes()
            peak = max(peak, held) if event.start_ns() > started_ns else held
    return peak


if __name__ == "__main__":
    main()
