"""What planning costs from a million to ten billion samples: index, order, tasks of an execution, ledger in mid-epoch.

Nothing is read or trained: the index is made up (shards of 10,000 samples), everything else is the code that a run's
first rank executes. Each size has a process of its own; seconds are those of a core, memory is what the resident set
grows by at its peak.

    python benchmarks/scale_plan.py [--samples 1e6 --samples 1.3e9] [--json FILE]
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SAMPLES_PER_SHARD = 10_000
NUM_NODES, RANKS_PER_NODE, MICRO_SIZE, WINDOW = 125, 8, 32, 2048
SIZES = (1e6, 1e7, 1e8, 1.3e9, 1e10)


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, action="append", help="size to measure; repeatable")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    results = []
    print(f"{'samples':>16} {'shards':>10}  seconds and MB of each part; peak memory of the process")
    for size in arguments.samples or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            run_apart(write_index, folder, int(size) // SAMPLES_PER_SHARD)
            results.append(run_apart(measure, folder, int(size)))
        found = results[-1]
        print(f"{found['samples']:16,} {found['shards']:10,}", end="  ")
        print(", ".join(f"{name} {value:,.2f}" for name, value in found.items() if name not in ("samples", "shards")))
        if arguments.json:  # after each: the largest size may take an hour on a busy machine, or all of its memory
            setting = {"samples_per_shard": SAMPLES_PER_SHARD, "window": WINDOW, "ranks": NUM_NODES * RANKS_PER_NODE}
            arguments.json.write_text(json.dumps({"setting": setting, "results": results}, indent=1) + "\n")


def run_apart(work: Any, *arguments: Any) -> Any:
    """What ``work`` returns, done in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def measure(folder: str, num_samples: int) -> dict[str, Any]:
    """All parts for one size, in this process."""
    from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
    from orchestrator.data.index import load_index
    from orchestrator.data.ledger import EpochBits, EpochCounts, Ledger
    from orchestrator.data.ledger_report import report_ledger
    from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
    from orchestrator.data.stream import plan_tasks
    from orchestrator.spec.plan import StreamPlan
    from orchestrator.storage.store import open_store

    found: dict[str, Any] = {"samples": num_samples, "shards": num_samples // SAMPLES_PER_SHARD}
    before_mb = peak_mb()
    index = timed(found, "index_s", lambda: load_index(open_store(folder), verify=False))
    timed(found, "digest_s", lambda index=index: index.digest)
    table = ChunkTable(index.shards.num_samples)
    order = SampleOrder([DatasetOrder(table, 0)], WindowShuffle(WINDOW, 0))
    timed(found, "order_s", lambda: order.window_visits(0, WINDOW))
    layout = BlockLayout(MICRO_SIZE, 1, NUM_NODES * RANKS_PER_NODE)
    plan = StreamPlan(
        block_bytes=1,
        blocks_per_task=8,
        tasks_per_execution=20_000,
        ingest_cpus=1,
        object_store_bytes=1,
        window=WINDOW,
        max_concepts_per_row=1,
    )
    tasks = timed(found, "tasks_s", lambda: plan_tasks(order, layout, plan, range(500), range(RANKS_PER_NODE)))
    found["tasks_per_s"] = len(tasks) / found["tasks_s"]
    found["plan_peak_mb"] = peak_mb() - before_mb
    half = num_samples // 2 // WINDOW * WINDOW
    ledger = Ledger([table.num_chunks])
    trained = timed(found, "visited_s", lambda: order.datasets[0].visited(0, half))
    ledger.counts[0, 0] = EpochCounts(trained=half)
    ledger.bits[0, 0] = EpochBits(0, trained, np.zeros_like(trained))
    stored = timed(found, "ledger_write_s", ledger.to_bytes)
    found["ledger_mb"] = len(stored) / 2**20
    again = timed(found, "ledger_read_s", lambda: Ledger.from_bytes(stored, [table.num_chunks], "here"))
    rows = timed(found, "ledger_report_s", lambda: report_ledger(again, order, half))
    assert all(row.is_healthy for row in rows), rows
    found["peak_mb"] = peak_mb() - before_mb
    drawn = SampleOrder([DatasetOrder(table, 0, with_replacement=True)], WindowShuffle(WINDOW, 0))
    timed(found, "with_replacement_s", lambda: drawn.window_visits(0, WINDOW))
    return found


def write_index(folder: str, num_shards: int) -> None:
    """An index of shards of one size, as ``save_index`` writes it."""
    from orchestrator.data.index import DatasetIndex, save_index
    from orchestrator.data.shard import CHUNK_SAMPLES
    from orchestrator.data.shard_table import SHARD_SCHEMA, ShardTable
    from orchestrator.storage.store import open_store

    num_boundaries = -(-SAMPLES_PER_SHARD // CHUNK_SAMPLES) + 1
    offsets = np.cumsum(np.random.default_rng(0).integers(2_000_000, 4_000_000, num_boundaries))
    boundaries = pa.ListArray.from_arrays(
        pa.array(np.arange(num_shards + 1) * num_boundaries, pa.int32()), pa.array(np.tile(offsets, num_shards))
    )
    columns = {
        "path": [f"{number:08d}.tar" for number in range(num_shards)],
        "size_bytes": np.full(num_shards, offsets[-1]),
        "etag": [f"{number:032x}" for number in range(num_shards)],
        "num_samples": np.full(num_shards, SAMPLES_PER_SHARD),
        "boundaries": boundaries,
        "problems": pa.array([[]] * num_shards, pa.list_(pa.string())),
        "sha256": pa.nulls(num_shards, pa.string()),
    }
    save_index(open_store(folder), DatasetIndex("made up", "webdataset", ShardTable(pa.table(columns, SHARD_SCHEMA))))


def timed(found: dict[str, Any], name: str, work: Any) -> Any:
    """Does it, and notes the seconds of the core: other work on the machine makes the clock's longer."""
    started_s = time.process_time()
    result = work()
    found[name] = time.process_time() - started_s
    return result


def peak_mb() -> float:
    """Greatest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
