"""Whether a step waits at the border between two executions of the stream.

A worker that takes a part of the loader's own rate reads one stream of many short executions, and one of a single
execution; each is timed block by block: how long the worker stood without one. A border shows as waits at the first
blocks of an execution that the single execution does not have. An execution is started when a quarter of the one before
is to come, here two tasks; in a run eight tasks for each CPU, since until the border both fill the object store.
Usage: python benchmarks/border.py [--tasks-per-execution 8] [--pace 0.7] [--epochs 6]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import loader

from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.resolve import MAX_TASKS_PER_EXECUTION
from orchestrator.storage.store import open_store


def waits_of(folder: str, setting: dict[str, Any], block_s: float) -> list[float]:
    """Seconds for which a worker that wants a block every ``block_s`` stood waiting for each."""
    stream, _ = loader.build_stream(folder, setting, S3Spec())
    waits, free_s = [], 0.0
    for _ in stream.blocks(0, setting["epochs"] * setting["samples"] // setting["batch"]):
        now_s = time.monotonic()
        waits.append(now_s - free_s if free_s else 0.0)
        time.sleep(block_s)  # the step
        free_s = time.monotonic()
    return waits


def summarise(waits: list[float], of_execution: int) -> dict[str, float]:
    """Milliseconds; the first execution is the warm-up."""
    later = waits[of_execution:]
    at_border = [max(later[at : at + 2]) for at in range(0, len(later), of_execution)]
    within = [wait for at, wait in enumerate(later) if at % of_execution >= 2]
    return {
        "borders": len(at_border),
        "longest_at_border_ms": 1e3 * max(at_border),
        "median_at_border_ms": 1e3 * statistics.median(at_border),
        "longest_within_ms": 1e3 * max(within),
        "median_within_ms": 1e3 * statistics.median(within),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks-per-execution", type=int, default=8)
    parser.add_argument("--pace", type=float, default=0.7, help="the worker's rate over the loader's")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    asked = vars(parser.parse_args())
    setting = {**asked, "processes": 1, "shards": 8, "window": 512, "source_width": 500, "image_size": 224}
    setting |= {"store_bytes": 2**29, "decode": "fast"}
    with tempfile.TemporaryDirectory() as folder:
        loader.write_shards(Path(folder), setting)
        store = open_store(folder)
        save_index(store, index_dataset(store))
        worker = loader.start_ray(setting)
        single = {**setting, "tasks_per_execution": MAX_TASKS_PER_EXECUTION, "epochs": setting["epochs"] // 2}
        rate = loader.run_stream(folder, {**single, "epochs": 1}, S3Spec())["images_per_s"]
        block_s = setting["batch"] / (setting["pace"] * rate)
        of_execution = setting["tasks_per_execution"] * 8
        found = {
            name: summarise(waits_of(folder, one, block_s), of_execution)
            for name, one in (("many executions", setting), ("one execution", single))
        }
        del worker
    print(json.dumps({"setting": setting, "loader_images_per_s": rate, "step_ms": 1e3 * block_s, **found}, indent=1))


if __name__ == "__main__":
    main()
