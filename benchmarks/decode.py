"""Images/s/core into a training process, against WebDataset, litdata and MosaicML streaming; and what it costs in dB.

    make bench-peers
    python benchmarks/decode.py [--rounds 5] [--json benchmarks/results/DATE-decode.json]

Every loader reads the same JPEGs (500x375, 4:2:0; 1/f noise in brightness and colour as photographs have, with the
edges of a few shapes) with one worker process behind torch's DataLoader, and makes batches of random-resized crops.
Ours hands over uint8; the peers, as open_clip and their documentation do, normalised floats ("uint8" rows: without
that step). A rate counts the seconds that worker and consumer kept a core busy, so that other work on the machine
does not. Loaders run in turn, and each round gives one ratio. dB: against Pillow's antialiased bicubic filter on the
same crop of the whole image.
"""

import argparse
import io
import json
import math
import statistics
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import measure
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, IterableDataset

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.decode import decoder_version
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image, crop_box
from orchestrator.data.index import load_index, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import open_store

CROPS = {"open_clip": (0.9, 1.0), "CatLIP": (0.08, 1.0)}
"""Share of an image's area that a crop keeps."""
OURS = ("fast", "exact")
PEERS = ("webdataset", "webdataset uint8", "litdata", "litdata uint8", "streaming", "streaming uint8")
WIDTH, HEIGHT = 500, 375
_BLOCKS_PER_TASK = 4
_DISTINCT = 256  # images; repeated to fill the shards, since making one takes longer than reading many


def make_photograph(generator: np.random.Generator) -> Image.Image:
    """Fields of 1/f amplitude (Field, 1987) for brightness and, smoother, for colour; outlines of shapes on top."""
    brightness, red, blue = (_make_field(generator, slope) for slope in (1.1, 1.5, 1.5))
    grey = 128 + 45 * brightness
    pixels_HWC = np.stack([grey + 25 * red, grey - 12 * red - 12 * blue, grey + 25 * blue], axis=2)
    image = Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for _ in range(generator.integers(4, 12)):
        x, y, half_width, half_height = generator.integers((0, 0, 15, 15), (WIDTH, HEIGHT, 150, 150)).tolist()
        outline = canvas.ellipse if generator.random() < 0.5 else canvas.rectangle
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        outline(box, outline=tuple(generator.integers(0, 256, 3).tolist()), width=int(generator.integers(1, 9)))
    return image


def _make_field(generator: np.random.Generator, slope: float) -> np.ndarray:
    side = 512
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((side, side))) / frequency**slope
    field: np.ndarray = np.fft.irfft2(spectrum, (side, side))[:HEIGHT, :WIDTH]
    return (field - field.mean()) / field.std()


def make_jpegs(setting: dict[str, Any]) -> list[bytes]:
    generator, jpegs = np.random.default_rng(0), []
    for _ in range(min(_DISTINCT, setting["samples"])):
        buffer = io.BytesIO()
        make_photograph(generator).save(buffer, "JPEG", quality=setting["quality"])
        jpegs.append(buffer.getvalue())
    return jpegs


def write_shards(folder: Path, jpegs: list[bytes], setting: dict[str, Any]) -> None:
    folder.mkdir()
    per_shard = setting["samples"] // setting["shards"]
    for shard in range(setting["shards"]):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for sample in range(shard * per_shard, (shard + 1) * per_shard):
                for extension, data in (("jpg", jpegs[sample % len(jpegs)]), ("txt", b"a photograph")):
                    member = tarfile.TarInfo(f"{sample:08d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    store = open_store(str(folder))
    save_index(store, index_dataset(store))


class FusedBlocks(IterableDataset[dict[str, torch.Tensor]]):
    """Blocks of one micro batch by the read tasks that the stream gives to Ray."""

    def __init__(self, folder: Path, spec: ShardsSpec, size: int, batch: int) -> None:
        store = open_store(str(folder))
        index = load_index(store)
        assert index is not None, "the shards have just been indexed"
        self.layout, self.image_size = BlockLayout(Batches(global_size=batch), batch, 1), size
        shuffle = WindowShuffle(4 * batch, 0, Batches(global_size=batch))
        table = ChunkTable(index.shards.num_samples)
        self.order = SampleOrder([DatasetOrder(table, shuffle.seed)], shuffle)
        format = BlockFormat((columns.IMAGE,), size, 32, 32, None, None)
        self.reader = ShardsBlockReader((ShardsSource.now(store, index.digest),), spec, shuffle, self.layout, format)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # blocks are read only
        blocks = 0
        while True:
            group = tuple(range(blocks, blocks := blocks + _BLOCKS_PER_TASK))
            positions = self.layout.positions(group[0])[0], self.layout.positions(group[-1])[1]
            for block in self.reader.read_blocks(BlockTask(group, self.order.window_visits(*positions))):
                images = unpack_block(block, self.image_size)[columns.IMAGE]
                yield {"image": torch.from_numpy(images)}


class Peers:
    """A server in the peers' environment; it ends with the ``with`` block."""

    def __init__(self, python: str) -> None:
        if not Path(python).exists():
            sys.exit(f"{python}: no environment of the peers there; run: make bench-peers")
        server = [python, "-W", "ignore", str(Path(__file__).with_name("peers.py"))]
        self._process = subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, request: dict[str, Any]) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            sys.exit(f"the peers' process ended with {self._process.wait()} at {request}; its message is above")
        answer: dict[str, float] = json.loads(line)
        return answer


def measure_loader(name: str, crop: str, folder: Path, peers: Peers, setting: dict[str, Any]) -> dict[str, float]:
    if name in OURS:
        blocks = FusedBlocks(folder / "tar", make_spec(crop, name), setting["size"], setting["batch"])
        return measure(DataLoader(blocks, batch_size=None, num_workers=1), setting["images"])
    loader, _, raw = name.partition(" ")
    request = {"loader": loader, "folder": str(folder), "crop_scale": CROPS[crop], "normalize": not raw}
    return peers.ask(request | {key: setting[key] for key in ("size", "batch", "images")})


def measure_round(number: int, folder: Path, peers: Peers, setting: dict[str, Any]) -> dict[str, Any]:
    """Every loader once for each crop, one after another, in every second round backwards."""
    names = (*OURS, *PEERS)[:: 1 if number % 2 == 0 else -1]
    return {crop: {name: measure_loader(name, crop, folder, peers, setting) for name in names} for crop in CROPS}


def make_spec(crop: str, decode: str) -> ShardsSpec:
    augmentation = AugmentationSpec(crop_scale=CROPS[crop])
    return ShardsSpec(kind="shards", train="tar", decode=decode, augmentation=augmentation)


def measure_psnr(jpegs: list[bytes], spec: ShardsSpec, size: int) -> dict[str, float]:
    """Mean and least over images, in dB."""
    ratios = []
    for number, data in enumerate(jpegs):
        draw = SampleDraw(0, 0, 0, 0, number)
        image = Image.open(io.BytesIO(data)).convert("RGB")
        box = crop_box(image.width, image.height, spec.augmentation, draw)
        wanted = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC), np.float64)
        error = np.square(augment_image(data, spec, size, draw)[0] - wanted).mean()
        ratios.append(10 * math.log10(255**2 / error))
    return {"mean_db": statistics.fmean(ratios), "least_db": min(ratios)}


def summarise(rounds: list[dict[str, Any]], psnr: dict[str, Any]) -> dict[str, Any]:
    """Median rates, and for ours the median over rounds of the ratio to each peer, with its range."""
    summary: dict[str, Any] = {}
    for crop in CROPS:
        rates = {name: [one[crop][name]["images_per_core_s"] for one in rounds] for name in (*OURS, *PEERS)}
        summary[crop] = {"images_per_core_s": {name: statistics.median(values) for name, values in rates.items()}}
        for name in OURS:
            ratios = {peer: [a / b for a, b in zip(rates[name], rates[peer], strict=True)] for peer in PEERS}
            summary[crop][name] = psnr[crop][name] | {
                "ratio": {peer: statistics.median(values) for peer, values in ratios.items()},
                "ratio_range": {peer: (min(values), max(values)) for peer, values in ratios.items()},
            }
    return summary


def print_table(summary: dict[str, Any]) -> None:
    for crop, found in summary.items():
        print(f"\ncrop of {CROPS[crop][0]:g} to 1 of the area ({crop}); images/s/core, and ours over theirs")
        for peer in PEERS:
            ratios = "   ".join(
                f"{name} {found[name]['ratio'][peer]:.2f} ({low:.2f}-{high:.2f})"
                for name in OURS
                for low, high in [found[name]["ratio_range"][peer]]
            )
            print(f"  {peer:18}{found['images_per_core_s'][peer]:8.0f}   {ratios}")
        for name in OURS:
            quality = f"PSNR {found[name]['mean_db']:.1f} dB (least {found[name]['least_db']:.1f})"
            print(f"  {name:18}{found['images_per_core_s'][name]:8.0f}   {quality}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2048, help="in the shards; --images of them are timed")
    parser.add_argument("--images", type=int, default=1536, help="timed in each round of each loader")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--quality", type=int, default=88, help="of the JPEGs")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--peers", default=".venv-peers/bin/python", help="Python of the peers' environment")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    arguments = vars(parser.parse_args())
    path, python = arguments.pop("json"), arguments.pop("peers")
    setting = arguments
    jpegs = make_jpegs(setting)
    setting["jpeg_bytes"] = round(statistics.fmean(len(data) for data in jpegs))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "tar", jpegs, setting)
        with Peers(python) as peers:  # a server of its own: litdata leaves how processes start changed
            peers.ask({"write": name})
        with Peers(python) as peers:
            rounds = [measure_round(number, folder, peers, setting) for number in range(setting["rounds"])]
    psnr = {
        crop: {name: measure_psnr(jpegs, make_spec(crop, name), setting["size"]) for name in OURS} for crop in CROPS
    }
    summary = summarise(rounds, psnr)
    print_table(summary)
    if path:
        result = {"setting": setting, "decoder": decoder_version(), "summary": summary, "rounds": rounds}
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
