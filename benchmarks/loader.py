"""What the stream costs: images/s that reach a worker that does nothing, over a bare loop that only decodes.

Both sides read the same shards with the same functions in the same number of processes; they run in turn, and each
round gives one ratio. The rate counts from the end of the first batch; the time to the first batch is printed.
Usage: python benchmarks/loader.py [--rounds 3] [--processes 1] [--source-width 500] [--image-size 224]
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.env import apply_quiet_env

apply_quiet_env()
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray reads it in this case; the bare loop has 0 too

import numpy as np
from PIL import Image

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image
from orchestrator.data.index import load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.readers import read_chunk
from orchestrator.data.shards_reader import ShardsBlockReader, ShardsSource
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import StreamPlan
from orchestrator.spec.resolve import MAX_TASKS_PER_EXECUTION, stream_store_bytes
from orchestrator.storage.store import open_store


def write_shards(folder: Path, setting: dict[str, Any]) -> None:
    """Photograph-like noise: a few octaves of it, so that JPEG has something to do."""
    generator = np.random.default_rng(0)
    width, height = setting["source_width"], setting["source_width"] * 3 // 4
    for shard in range(setting["shards"]):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for sample in range(setting["samples"] // setting["shards"]):
                key = f"{shard:05d}{sample:04d}"
                octaves = sum(
                    np.asarray(
                        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize(
                            (width, height), Image.Resampling.BICUBIC
                        ),
                        dtype=np.float32,
                    )
                    * weight
                    for size, weight in ((4, 0.6), (16, 0.25), (64, 0.15))
                )
                buffer = io.BytesIO()
                Image.fromarray(octaves.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
                for extension, data in (("jpg", buffer.getvalue()), ("txt", f"noise {key}".encode())):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def decode_shards(folder: str, number: int, setting: dict[str, Any], start: Any, result: Any) -> None:
    """One process of the bare loop: every n-th chunk, each image decoded and cropped, nothing kept."""
    store, spec = open_store(folder), ShardsSpec(kind="shards", train=folder, decode=setting["decode"])
    index = load_index(store)
    assert index is not None
    chunks = [(shard, chunk) for shard in index.shards for chunk in range(shard.num_chunks)]
    start.wait()
    started_s, images = time.monotonic(), 0
    for epoch in range(setting["epochs"]):
        for position, (shard, chunk) in enumerate(chunks[number :: setting["processes"]]):
            for sample in read_chunk(store, shard, chunk):
                draw = SampleDraw(0, epoch, 0, position, sample.index)
                augment_image(sample.members["jpg"], spec, setting["image_size"], draw)
                images += 1
    result.put((started_s, time.monotonic(), images))


def run_bare(folder: str, setting: dict[str, Any]) -> float:
    context = multiprocessing.get_context("spawn")
    start, result = context.Barrier(setting["processes"]), context.SimpleQueue()
    processes = [
        context.Process(target=decode_shards, args=(folder, number, setting, start, result))
        for number in range(setting["processes"])
    ]
    for process in processes:
        process.start()
    found = [result.get() for _ in processes]
    for process in processes:
        process.join()
    wall_s = max(end for _, end, _ in found) - min(begin for begin, _, _ in found)
    return float(sum(images for _, _, images in found) / wall_s)


def run_stream(folder: str, setting: dict[str, Any]) -> tuple[float, float]:
    """(images/s after the first batch, seconds to the first batch)."""
    from orchestrator.data.stream import BlockStream, StreamPlace

    store = open_store(folder)
    index = load_index(store)
    assert index is not None
    size, pixels = setting["batch"], setting["image_size"]
    layout, shuffle = BlockLayout(size, 1, 1), WindowShuffle(4 * size, seed=0)
    format = BlockFormat((columns.IMAGE,), pixels, 32, 32, None, None)
    spec = ShardsSpec(kind="shards", train=folder, decode=setting["decode"])
    reader = ShardsBlockReader((ShardsSource(store, index.digest),), spec, shuffle, layout, format)
    table = ChunkTable(index.shards.num_samples)
    order = SampleOrder([DatasetOrder(table, shuffle.seed)], shuffle)
    block_bytes = size * (3 * pixels**2 + 64)
    plan = StreamPlan(
        block_bytes=block_bytes,
        blocks_per_task=setting["blocks_per_task"],
        tasks_per_execution=MAX_TASKS_PER_EXECUTION,
        ingest_cpus=setting["processes"],
        object_store_bytes=stream_store_bytes(
            1, setting["processes"], setting["blocks_per_task"], block_bytes, setting["store_bytes"]
        ),
        window=shuffle.size,
        max_concepts_per_row=32,
    )
    stream = BlockStream(reader, order, layout, plan, StreamPlace(0, (0,)), lambda built: built or [])
    steps = setting["epochs"] * setting["samples"] // size
    started_s, images = time.monotonic(), 0
    first_s = started_s
    for number, block in enumerate(stream.blocks(0, steps)):
        rows = len(unpack_block(block, pixels)[columns.IMAGE])
        if number == 0:
            first_s = time.monotonic()
        else:
            images += rows
    return images / (time.monotonic() - first_s), first_s - started_s


class Worker:
    """Takes a CPU and does nothing."""

    def ready(self) -> None:
        """Returns when the worker has started."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--blocks-per-task", type=int, default=4)
    parser.add_argument("--source-width", type=int, default=500)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--store-bytes", type=int, default=2**30)
    parser.add_argument("--decode", choices=["fast", "exact"], default="fast")
    setting = vars(parser.parse_args())

    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    # One CPU more than the stream may take: a worker holds it, as in a run.
    num_cpus = setting["processes"] + 1
    ray.init(address="local", num_cpus=num_cpus, object_store_memory=setting["store_bytes"], **quiet)
    worker = ray.remote(num_cpus=1)(Worker).remote()
    ray.get(worker.ready.remote())
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), setting)
        store = open_store(folder)
        save_index(store, index_dataset(store))
        for _ in range(setting["rounds"]):
            bare = run_bare(folder, setting)
            stream, first_batch_s = run_stream(folder, setting)
            rounds.append(
                {
                    "bare_images_per_s": bare,
                    "stream_images_per_s": stream,
                    "first_batch_s": first_batch_s,
                    "ratio": stream / bare,
                }
            )
    ray.shutdown()
    ratios = [one["ratio"] for one in rounds]
    print(json.dumps({"setting": setting, "rounds": rounds, "ratio_median": statistics.median(ratios)}, indent=1))


if __name__ == "__main__":
    main()
