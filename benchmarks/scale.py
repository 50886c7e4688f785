"""How the work of the driver and of each node's first rank grows: from a million to ten billion samples, and from one
worker to a thousand. Shows what breaks first (docs/scaling.md).

Nothing is read or trained: index, rows of the ledger, reports and words of ranks are made up, everything else is the
code that a run executes. Each size has a process of its own; seconds are those of a core, memory is what the resident
set grows by at its peak.

    python benchmarks/scale.py [--samples 1e6 --samples 1.3e9] [--workers 1 --workers 1000] [--json FILE]
"""

import argparse
import json
import logging
import multiprocessing
import pickle
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SAMPLES_PER_SHARD = 10_000
NUM_NODES, RANKS_PER_NODE, MICRO_SIZE, WINDOW = 125, 8, 32, 2048
SIZES = (1e6, 1e7, 1e8, 1.3e9, 1e10)
WORKERS = (1, 8, 64, 256, 1000)
SELECTED = 0.3  # of the samples, at random
LEDGER_SAMPLES = 1_300_000_000
REPORTS = 300
MODEL_PARAMETERS = 400  # tensors of a ViT-L pair


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, action="append", help="size to measure; repeatable")
    parser.add_argument("--workers", type=int, action="append", help="number to measure; repeatable")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    setting = {"samples_per_shard": SAMPLES_PER_SHARD, "window": WINDOW, "ranks": NUM_NODES * RANKS_PER_NODE}
    results: dict[str, Any] = {"setting": setting, "workers": [], "samples": []}
    for number in arguments.workers or WORKERS:
        results["workers"].append(run_apart(measure_workers, number))
        show(results["workers"][-1], arguments.json, results)
    for size in arguments.samples or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            run_apart(write_index, folder, int(size) // SAMPLES_PER_SHARD)
            found = run_apart(measure, folder, int(size))
            found |= run_apart(measure_selected, int(size))
            digest = run_apart(read_digest, folder)
            for which in ("first", "other"):
                of_reader = run_apart(measure_reader, folder, digest)
                found |= {f"{which}_reader_{name}": value for name, value in of_reader.items()}
        results["samples"].append(found)
        show(found, arguments.json, results)


def show(found: dict[str, Any], file: Path | None, results: dict[str, Any]) -> None:
    """After each: the largest size may take long on a busy machine."""
    print(
        ", ".join(
            f"{name} {value:,.3g}" if isinstance(value, float) else f"{name} {value:,}" for name, value in found.items()
        ),
        flush=True,
    )
    if file:
        file.write_text(json.dumps(results, indent=1) + "\n")


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
    from orchestrator.spec.batches import Batches
    from orchestrator.spec.plan import StreamPlan
    from orchestrator.storage.store import open_store

    index_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    found: dict[str, Any] = {"samples": num_samples, "shards": num_samples // SAMPLES_PER_SHARD}
    found["index_file_mb"] = index_bytes / 1e6
    before_mb = peak_mb()
    index = timed(found, "index_s", lambda: load_index(open_store(folder), verify=False, chunk_tables=False))
    timed(found, "digest_s", lambda index=index: index.digest)
    table = ChunkTable(index.shards.num_samples)
    world_size = NUM_NODES * RANKS_PER_NODE
    layout = BlockLayout(Batches(global_size=MICRO_SIZE * world_size), MICRO_SIZE, world_size)
    shuffle = WindowShuffle(WINDOW, 0, layout.batches)
    order = SampleOrder([DatasetOrder(table, 0)], shuffle)
    timed(found, "order_s", lambda: order.window_visits(0, WINDOW))
    sizes = {"block_bytes": 1, "blocks_per_task": 8, "tasks_per_execution": 20_000, "object_store_bytes": 1}
    plan = StreamPlan(**sizes, ingest_cpus=1, window=WINDOW, max_concepts_per_row=1)
    tasks = timed(found, "tasks_s", lambda: plan_tasks(order, layout, plan, range(500), range(RANKS_PER_NODE)))
    found["tasks_per_s"] = len(tasks) / found["tasks_s"]
    found["plan_peak_mb"] = peak_mb() - before_mb
    half = num_samples // 2 // WINDOW * WINDOW
    ledger = Ledger([table.num_chunks])
    trained = timed(found, "visited_s", lambda: order.datasets[0].visited(0, half))
    ledger.counts[0, 0] = EpochCounts(trained=half)
    ledger.bits[0, 0] = EpochBits(0, trained, np.zeros_like(trained))
    kept = order.datasets[0].masks()
    stored = timed(found, "ledger_write_s", lambda: ledger.to_bytes(lambda _: kept))
    found["ledger_mb"] = len(stored) / 2**20
    again = timed(found, "ledger_read_s", lambda: Ledger.from_bytes(stored, [table.num_chunks], lambda _: kept, "here"))
    rows = timed(found, "ledger_report_s", lambda: report_ledger(again, order, half))
    assert all(row.is_healthy for row in rows), rows
    found["peak_mb"] = peak_mb() - before_mb
    drawn = SampleOrder([DatasetOrder(table, 0, with_replacement=True)], shuffle)
    timed(found, "with_replacement_s", lambda: drawn.window_visits(0, WINDOW))
    return found


def measure_selected(num_samples: int) -> dict[str, Any]:
    """The ledger in mid-epoch of a random selection, as rank 0 stores and every rank reads it."""
    from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
    from orchestrator.data.ledger import EpochBits, EpochCounts, Ledger

    table = ChunkTable(np.full(num_samples // SAMPLES_PER_SHARD, SAMPLES_PER_SHARD))
    kept = DatasetOrder(table, 0).masks()
    draw = np.random.default_rng(0)
    for start in range(0, len(kept), 2**17):
        part = kept[start : start + 2**17]
        part &= np.packbits(draw.random((len(part), 64), np.float32) < SELECTED).view(np.uint64)
    order = DatasetOrder(table, 0, kept=kept)
    ledger = Ledger([table.num_chunks])
    trained = order.visited(0, order.num_samples // 2)
    ledger.counts[0, 0] = EpochCounts(trained=order.num_samples // 2)
    ledger.bits[0, 0] = EpochBits(0, trained, np.zeros_like(trained))
    found: dict[str, Any] = {}
    stored = timed(found, "selected_ledger_write_s", lambda: ledger.to_bytes(lambda _: kept))
    found["selected_ledger_mb"] = len(stored) / 2**20
    again = timed(
        found, "selected_ledger_read_s", partial(Ledger.from_bytes, stored, [table.num_chunks], lambda _: kept, "")
    )
    assert np.array_equal(again.bits[0, 0].trained, trained)
    return found


def read_digest(folder: str) -> str:
    """Of the index in ``folder``."""
    from orchestrator.data.index import load_index
    from orchestrator.storage.store import open_store

    index = load_index(open_store(folder), verify=False, chunk_tables=False)
    assert index is not None
    return index.digest


def measure_reader(folder: str, digest: str) -> dict[str, Any]:
    """What a process that decodes does to have the index, the first of its node or another, and what is its own."""
    import psutil

    from orchestrator.data.node_index import ShardsSource, open_index
    from orchestrator.storage.store import open_store

    tempfile.tempdir = folder  # the node's
    found: dict[str, Any] = {}
    before_mb, before_bytes = peak_mb(), psutil.Process().memory_full_info().uss
    index = timed(found, "s", lambda: open_index(ShardsSource.now(open_store(folder), digest)))
    assert index.shards[len(index.shards) - 1].boundaries
    found["peak_mb"] = peak_mb() - before_mb
    found["kept_mb"] = (psutil.Process().memory_full_info().uss - before_bytes) / 2**20
    return found


def measure_workers(num_workers: int) -> dict[str, Any]:
    """What rank 0 and the driver do for all workers."""
    found: dict[str, Any] = {"workers": num_workers}
    with tempfile.TemporaryDirectory() as folder:
        measure_marker(found, folder, num_workers)
        measure_reports(found, folder, num_workers)
    measure_merge(found, num_workers)
    found["peak_mb"] = peak_mb()
    return found


def measure_marker(found: dict[str, Any], folder: str, num_workers: int) -> None:
    """Rank 0 reads the word of every rank, and writes layout and marker; here from a disk."""
    from orchestrator.storage.marker import MARKER, MarkedFile, read_marker, write_marker
    from orchestrator.storage.store import open_store

    store = open_store(folder)
    share = {
        f"vision.encoder.layers.{number}.weight": [0, 1_000_000]
        for number in range(1 + MODEL_PARAMETERS // num_workers)
    }
    files = [
        {"path": f"0123abcd-{rank:05d}.safetensors", "size_bytes": 0, "sha256": f"{rank:064x}"}
        for rank in range(num_workers)
    ]
    for rank, file in enumerate(files):
        store.write_bytes(f"checkpoint/{rank}.json", json.dumps({"files": [file], "layout": share}).encode())
        store.write_bytes(f"checkpoint/{file['path']}", b"")
    names = range(num_workers)
    words = timed(found, "words_s", lambda: [json.loads(store.read_bytes(f"checkpoint/{rank}.json")) for rank in names])
    found["layout_kb"] = len(json.dumps([word["layout"] for word in words])) / 1e3
    timed(found, "marker_write_s", lambda: write_marker(store, "checkpoint", [MarkedFile(**file) for file in files]))
    found["marker_kb"] = len(store.read_bytes(f"checkpoint/{MARKER}")) / 1e3
    marker = timed(found, "marker_read_s", lambda: read_marker(store, "checkpoint"))
    assert marker.fault is None, marker.fault


def measure_reports(found: dict[str, Any], folder: str, num_workers: int) -> None:
    """Reports of rank 0 into the driver's journal and MLflow: they do not multiply with the ranks."""
    from orchestrator.tracking.mlflow.open import open_tracker
    from orchestrator.tracking.tracker import RunTarget
    from orchestrator.training.reports import StepReport

    logging.disable(logging.WARNING)
    values = {f"train/metric_{number}": number / 7 for number in range(30)}
    found["report_bytes"] = len(pickle.dumps(StepReport(1, values)))
    target = RunTarget(f"sqlite:///{folder}/mlflow.db", "scale", str(num_workers), "0" * 32)
    tracker = open_tracker(target, Path(folder), "driver", owns_run=True, samples_system=False)
    tracker.run_id(timeout_s=120)
    started_s = time.perf_counter()
    for step in range(REPORTS):
        tracker.log_metrics(values, step)
    found["reports_taken_per_s"] = REPORTS / (time.perf_counter() - started_s)
    left = tracker.close(timeout_s=600)
    found["reports_stored_per_s"] = (REPORTS - left.entries) / (time.perf_counter() - started_s)


def measure_merge(found: dict[str, Any], num_workers: int) -> None:
    """Parts of a ledger in mid-epoch that all ranks send to rank 0."""
    from orchestrator.data.ledger import EpochBits, EpochCounts, Ledger

    num_chunks = LEDGER_SAMPLES // 64
    whole = Ledger([num_chunks])
    trained = np.zeros(num_chunks, np.uint64)
    trained[::2] = 2**64 - 1
    whole.counts[0, 0] = EpochCounts(trained=LEDGER_SAMPLES // 2)
    whole.bits[0, 0] = EpochBits(0, trained, np.zeros_like(trained))
    kept = np.full(num_chunks, 2**64 - 1, np.uint64)
    stored = whole.to_bytes(lambda _: kept)

    def part_of(rank: int) -> Ledger:
        return Ledger.from_bytes(stored, [num_chunks], lambda _: kept, "here", part=rank, num_parts=num_workers)

    parts = [pickle.dumps(part_of(rank)) for rank in range(num_workers)]
    found["ledger_parts_mb"] = sum(map(len, parts)) / 1e6
    merged = Ledger([num_chunks])

    def merge() -> None:
        for part in parts:
            merged.merge(pickle.loads(part))  # noqa: S301  # made above

    timed(found, "ledger_merge_s", merge)
    assert np.array_equal(merged.bits[0, 0].trained, trained)


def write_index(folder: str, num_shards: int) -> None:
    """An index of shards of one size, as ``save_index`` writes it."""
    from orchestrator.data.index import DatasetIndex, save_index
    from orchestrator.data.shard import CHUNK_SAMPLES
    from orchestrator.data.shard_table import SHARD_SCHEMA, ShardTable
    from orchestrator.storage.store import open_store

    num_boundaries = -(-SAMPLES_PER_SHARD // CHUNK_SAMPLES) + 1
    sizes = np.random.default_rng(0).integers(2_000_000, 4_000_000, (num_shards, num_boundaries))
    offsets = np.cumsum(sizes, axis=1)
    boundaries = pa.ListArray.from_arrays(
        pa.array(np.arange(num_shards + 1) * num_boundaries, pa.int32()), pa.array(offsets.reshape(-1))
    )
    columns = {
        "path": [f"{number:08d}.tar" for number in range(num_shards)],
        "size_bytes": offsets[:, -1],
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
