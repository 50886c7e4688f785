"""What the stream costs: images/s that reach a worker that does nothing, over a bare loop that only decodes.

All sides read the same shards with the same functions in the same number of processes; they run in turn, and each
round gives one ratio. Tasks, windows and store are what a Plan would give. Rates count behind a warm-up that has been
through the object store once, since the first touch of each of its pages costs; the time to the first batch is printed.
CPU seconds an image are printed by role: other work on the machine changes rates far more than those.

With one process, a machine needs a second core for what is beside it: Ray, and the worker's own process.
Usage: python benchmarks/loader.py [--rounds 3] [--processes 1] [--s3] [--batch 256] [--decode fast]
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.env import apply_quiet_env

apply_quiet_env()
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray reads it in this case; the bare loop has 0 too

import numpy as np
import psutil
import ray
from PIL import Image

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image
from orchestrator.data.index import load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.readers import read_chunk
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.data.stream import BlockStream, StreamPlace
from orchestrator.runs.store_use import used_store_bytes
from orchestrator.spec.batches import Batches
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import StreamPlan
from orchestrator.spec.resolve import (
    MAX_TASKS_PER_EXECUTION,
    stream_store_bytes,
)
from orchestrator.spec.stream_reads import blocks_per_task
from orchestrator.storage.store import open_store


def draw_jpegs(number: int, width: int) -> list[bytes]:
    """Photograph-like noise: a few octaves of it, so that JPEG has something to do."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(number):
        octaves = np.zeros((width * 3 // 4, width, 3), np.float32)
        for size, weight in ((4, 0.6), (16, 0.25), (64, 0.15)):
            noise = Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))
            octaves += weight * np.asarray(noise.resize(octaves.shape[1::-1], Image.Resampling.BICUBIC))
        buffer = io.BytesIO()
        Image.fromarray(octaves.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def write_shards(folder: Path, setting: dict[str, Any]) -> None:
    """Samples of few different images: a decoder is as slow on the second sight of one."""
    jpegs = draw_jpegs(128, setting["source_width"])
    for shard in range(setting["shards"]):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for sample in range(setting["samples"] // setting["shards"]):
                key = f"{shard:05d}{sample:04d}"
                for extension, data in (("jpg", jpegs[sample % len(jpegs)]), ("txt", f"noise {key}".encode())):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def decode_shards(folder: str, number: int, setting: dict[str, Any], start: Any, result: Any) -> None:
    """One process of the bare loop: every n-th chunk, each image decoded and cropped, nothing kept.

    The first pass is the warm-up.
    """
    store, spec = open_store(folder), ShardsSpec(kind="shards", train=folder, decode=setting["decode"])
    index = load_index(store)
    assert index is not None
    chunks = [(shard, chunk) for shard in index.shards for chunk in range(shard.num_chunks)]
    started_s, started_cpu_s, images = 0.0, 0.0, 0
    for epoch in range(-1, setting["epochs"]):
        if epoch == 0:
            start.wait()
            started_s, started_cpu_s, images = time.monotonic(), time.process_time(), 0
        for position, (shard, chunk) in enumerate(chunks[number :: setting["processes"]]):
            for sample in read_chunk(store, shard, chunk):
                draw = SampleDraw(0, epoch + 1, 0, position, sample.index)
                augment_image(sample.members["jpg"], spec, setting["image_size"], draw)
                images += 1
    result.put((started_s, time.monotonic(), time.process_time() - started_cpu_s, images))


def run_bare(folder: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Rate and CPU of the loop that only decodes."""
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
    starts, ends, cpu_s, images = zip(*found, strict=True)
    return {
        "images_per_s": sum(images) / (max(ends) - min(starts)),
        "cpu_us_per_image": {"bare loop": sum(cpu_s) / sum(images) * 1e6},
    }


class CpuByRole:
    """CPU seconds of this process and of all below it, by what they do in a stream."""

    def __init__(self) -> None:
        self._roles: dict[int, str] = {}
        self._start = self._read()

    def observe(self) -> None:
        """A read process is called so only while it reads: look often."""
        self._read()

    def spent_us(self, images: int) -> dict[str, float]:
        """Microseconds an image since the beginning."""
        spent: dict[str, float] = {}
        for pid, cpu_s in self._read().items():
            role = self._roles[pid]
            spent[role] = spent.get(role, 0.0) + (cpu_s - self._start.get(pid, 0.0)) / images * 1e6
        return spent

    def _read(self) -> dict[int, float]:
        found = {}
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times, command = process.cpu_times(), " ".join(process.cmdline())
                found[process.pid] = times.user + times.system
                self._roles[process.pid] = self._role(process.pid, command)
        return found

    def _role(self, pid: int, command: str) -> str:
        if "MapBatches" in command:
            return "read tasks"
        known = self._roles.get(pid)
        if known == "read tasks":
            return known
        named = {"SplitCoordinator": "coordinator", "rclone": "S3 server"}
        return next(
            (role for part, role in named.items() if part in command), "consumer" if pid == os.getpid() else "rest"
        )


def build_stream(folder: str, setting: dict[str, Any], s3: S3Spec) -> tuple[BlockStream, int]:
    """The stream of one worker, and its bound on the object store in bytes."""
    store = open_store(folder, s3)
    index = load_index(store)
    assert index is not None
    size, pixels = setting["batch"], setting["image_size"]
    layout = BlockLayout(Batches(global_size=size), size, 1)
    shuffle = WindowShuffle(math.ceil(setting["window"] / size) * size, 0, layout.batches)
    format = BlockFormat((columns.IMAGE,), pixels, 32, 32, None, None)
    spec = ShardsSpec(kind="shards", train=folder, decode=setting["decode"])
    reader = ShardsBlockReader((ShardsSource.now(store, index.digest),), spec, shuffle, layout, format)
    order = SampleOrder([DatasetOrder(ChunkTable(index.shards.num_samples), shuffle.seed)], shuffle)
    block_bytes = size * (3 * pixels**2 + 64)
    task_blocks = blocks_per_task(shuffle.size, size, 1, index.size_bytes / index.num_samples)
    store_bytes = stream_store_bytes(1, setting["processes"], task_blocks, block_bytes, setting["store_bytes"])
    plan = StreamPlan(
        block_bytes=block_bytes,
        blocks_per_task=task_blocks,
        tasks_per_execution=setting["tasks_per_execution"],
        ingest_cpus=setting["processes"],
        object_store_bytes=store_bytes,
        window=shuffle.size,
        max_concepts_per_row=32,
    )
    return BlockStream(reader, order, layout, plan, StreamPlace(0, (0,)), lambda built: built or []), store_bytes


def run_stream(folder: str, setting: dict[str, Any], s3: S3Spec) -> dict[str, Any]:
    """Rate, CPU by role and peak of the object store, behind the warm-up."""
    stream, bound_bytes = build_stream(folder, setting, s3)
    size = setting["batch"]
    warm_up = math.ceil(setting["store_bytes"] / (size * 3 * setting["image_size"] ** 2)) + 1
    steps = warm_up + setting["epochs"] * setting["samples"] // size
    begun_s, peak_bytes = time.monotonic(), 0
    for number, block in enumerate(stream.blocks(0, steps)):
        assert len(unpack_block(block, setting["image_size"])[columns.IMAGE]) == size
        if number == 0:
            first_batch_s = time.monotonic() - begun_s
        if number == warm_up - 1:
            started_s, cpu = time.monotonic(), CpuByRole()
        elif number >= warm_up:
            cpu.observe()
            peak_bytes = max(peak_bytes, used_store_bytes())
    images = (steps - warm_up) * size
    return {
        "images_per_s": images / (time.monotonic() - started_s),
        "cpu_us_per_image": cpu.spent_us(images),
        "first_batch_s": first_batch_s,
        "store_peak_bytes": peak_bytes,
        "store_bound_bytes": bound_bytes,
    }


@contextlib.contextmanager
def serve_s3(folder: Path) -> Iterator[S3Spec]:
    """``rclone serve s3`` over a folder whose folders are buckets."""
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    os.environ.update(keys, AWS_EC2_METADATA_DISABLED="true")
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", "127.0.0.1:0"]
    command += ["--auth-key", ",".join(keys.values()), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        endpoint = next(found.group() for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would block the server
        try:
            yield S3Spec(endpoint=endpoint)
        finally:
            server.terminate()


class Worker:
    """Takes a CPU and does nothing."""

    def ready(self) -> None:
        """Returns when the worker has started."""


def start_ray(setting: dict[str, Any]) -> Any:
    """A local Ray with one CPU more than the stream may take; a worker holds it, as in a run."""
    ray.init(
        address="local",
        num_cpus=setting["processes"] + 1,
        object_store_memory=setting["store_bytes"],
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
    )
    worker = ray.remote(num_cpus=1)(Worker).remote()
    ray.get(worker.ready.remote())
    return worker


def measure_round(folder: Path, setting: dict[str, Any], s3: S3Spec | None) -> dict[str, Any]:
    """Each side once."""
    sides = {"bare": run_bare(str(folder), setting), "disk": run_stream(str(folder), setting, S3Spec())}
    if s3 is not None:
        sides["s3"] = run_stream(f"s3://{folder.name}", setting, s3)
    rates = {name: side["images_per_s"] for name, side in sides.items()}
    ratios = {"disk_over_bare": rates["disk"] / rates["bare"]}
    if s3 is not None:
        ratios["s3_over_disk"] = rates["s3"] / rates["disk"]
        reading = {name: sides[name]["cpu_us_per_image"]["read tasks"] for name in ("disk", "s3")}
        ratios["s3_over_disk_by_cpu"] = reading["disk"] / reading["s3"]  # the server here takes CPU from the readers
    return {**sides, "ratios": ratios}


def parse_setting() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8, help="passes that count")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--window", type=int, default=ShardsSpec(kind="shards", train="x").shuffle_window)
    parser.add_argument("--tasks-per-execution", type=int, default=MAX_TASKS_PER_EXECUTION)
    parser.add_argument("--source-width", type=int, default=500)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--store-bytes", type=int, default=2**30)
    parser.add_argument("--decode", choices=["fast", "exact"], default="fast")
    parser.add_argument("--s3", action="store_true", help="the same from a local S3 server")
    return vars(parser.parse_args())


def main() -> None:
    setting = parse_setting()
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as running:
        folder = Path(root) / "shards"
        folder.mkdir()
        write_shards(folder, setting)
        stores = [open_store(str(folder))]
        s3 = running.enter_context(serve_s3(Path(root))) if setting["s3"] else None
        if s3 is not None:
            stores.append(open_store(f"s3://{folder.name}", s3))
        for store in stores:
            save_index(store, index_dataset(store))
        worker = start_ray(setting)
        rounds = [measure_round(folder, setting, s3) for _ in range(setting["rounds"])]
        del worker
        ray.shutdown()
    names = rounds[0]["ratios"]
    medians = {name: statistics.median(one["ratios"][name] for one in rounds) for name in names}
    print(json.dumps({"setting": setting, "rounds": rounds, "median_ratios": medians}, indent=1))


if __name__ == "__main__":
    main()
