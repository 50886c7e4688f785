"""Other loaders, each with its own format and with Pillow as open_clip uses it: a server that ``decode.py`` asks.

Runs in the environment that `make bench-peers` makes. Reads one JSON request a line, answers one line of JSON:

    {"write": FOLDER}                                              the shards of FOLDER/tar, in the peers' formats
    {"loader": NAME, "folder": F, "crop_scale": [a, b], "images": n, ...}        the rate of one loader

Every loader decodes the same JPEGs with one worker process, and hands batches to this one, which does nothing.
"""

import io
import json
import math
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SHUFFLE_BUFFER = 500

Preprocess = Callable[[Image.Image], torch.Tensor]


def measure(loader: Any, num_images: int) -> dict[str, float]:
    """Images by the seconds that this process and the loader's kept a core busy, after the first batch."""
    batches = iter(loader)
    next(batches)
    this = psutil.Process()
    processes = [this, *this.children(recursive=True)]
    start_core_s, start_s, images = _core_s(processes), time.monotonic(), 0
    while images < num_images:
        batch = next(batches)
        images += len(batch["image"] if isinstance(batch, dict) else batch[0])
    core_s, wall_s = _core_s(processes) - start_core_s, time.monotonic() - start_s
    return {"images_per_core_s": images / core_s, "images_per_wall_s": images / wall_s}


def _core_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(used.user + used.system for used in times)


class OpenClipTransform:
    """open_clip's training transform, operation for operation as torchvision executes it on Pillow images.

    RandomResizedCrop (bicubic), ToTensor, Normalize; torchvision itself does not load beside torch's CPU build.
    ``normalize`` off: PILToTensor instead of the last two.
    """

    def __init__(self, size: int, crop_scale: tuple[float, float], normalize: bool = True) -> None:
        self.size, self.crop_scale, self.normalize = size, crop_scale, normalize
        self.log_ratio = torch.log(torch.tensor((3 / 4, 4 / 3)))

    def __call__(self, image: Image.Image) -> torch.Tensor:
        left, top, width, height = self._draw_box(*image.size)
        square = image.crop((left, top, left + width, top + height)).resize((self.size, self.size), Image.BICUBIC)
        pixels_CHW = torch.from_numpy(np.array(square.convert("RGB"), np.uint8, copy=True)).permute(2, 0, 1)
        if not self.normalize:
            return pixels_CHW
        scaled_CHW = pixels_CHW.contiguous().to(torch.float32).div(255)
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        return scaled_CHW.clone().sub_(mean).div_(std)

    def _draw_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * torch.empty(1).uniform_(*self.crop_scale).item()
            ratio = torch.exp(torch.empty(1).uniform_(*self.log_ratio.tolist())).item()
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(torch.randint(0, height - h + 1, (1,)).item())
                return int(torch.randint(0, width - w + 1, (1,)).item()), top, w, h
        return 0, 0, width, height


def open_rgb(data: bytes) -> Image.Image:
    """As WebDataset's ``pilrgb`` and the peers' own examples decode."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.convert("RGB")


def build_webdataset(folder: Path, preprocess: Preprocess, batch: int) -> Any:
    """open_clip's pipeline."""
    import webdataset as wds

    stages = [
        wds.SimpleShardList([str(shard) for shard in sorted((folder / "tar").glob("*.tar"))]),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.shuffle(_SHUFFLE_BUFFER, initial=_SHUFFLE_BUFFER),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=preprocess, text=lambda text: text),
        wds.to_tuple("image", "text"),
        wds.batched(batch),
    ]
    return wds.WebLoader(wds.DataPipeline(*stages), batch_size=None, shuffle=False, num_workers=1)


def build_litdata(folder: Path, preprocess: Preprocess, batch: int) -> Any:
    """Its StreamingDataset and StreamingDataLoader, with the transform in ``__getitem__``."""
    import litdata

    class Dataset(litdata.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {"image": preprocess(open_rgb(sample["image"])), "text": sample["text"]}

    return litdata.StreamingDataLoader(Dataset(str(folder / "litdata"), shuffle=True), batch_size=batch, num_workers=1)


def build_streaming(folder: Path, preprocess: Preprocess, batch: int) -> Any:
    """MosaicML's StreamingDataset, with the transform in ``__getitem__``."""
    streaming = import_streaming()

    class Dataset(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {"image": preprocess(open_rgb(sample["image"])), "text": sample["text"]}

    streaming.base.util.clean_stale_shared_memory()
    return DataLoader(Dataset(local=str(folder / "mds"), shuffle=True, batch_size=batch), batch, num_workers=1)


BUILDERS = {"webdataset": build_webdataset, "litdata": build_litdata, "streaming": build_streaming}


def import_streaming() -> Any:
    """It imports torchvision for data sets of its own, which needs two operators that torch's CPU build lacks."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import streaming

    return streaming


def read_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """Images and captions of all shards, in order."""
    for shard in sorted((folder / "tar").glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        for (_, image), (_, text) in zip(members[::2], members[1::2], strict=True):
            yield {"image": image, "text": text.decode()}


def _identity(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def write_formats(folder: Path) -> None:
    """The shards' JPEGs as they are, in litdata's and MosaicML's formats."""
    import litdata

    samples = list(read_samples(folder))
    output = str(folder / "litdata")
    litdata.optimize(_identity, samples, output, chunk_bytes="64MB", num_workers=1, verbose=False)
    streaming = import_streaming()
    with streaming.MDSWriter(out=str(folder / "mds"), columns={"image": "bytes", "text": "str"}) as writer:
        for sample in samples:
            writer.write(sample)


def answer(request: dict[str, Any]) -> dict[str, float]:
    """Do what one request asks."""
    if "write" in request:
        write_formats(Path(request["write"]))
        return {}
    transform = OpenClipTransform(request["size"], tuple(request["crop_scale"]), request["normalize"])
    loader = BUILDERS[request["loader"]](Path(request["folder"]), transform, request["batch"])
    return measure(loader, request["images"])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
