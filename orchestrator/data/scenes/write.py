"""Writing the scene data set: a local folder of WebDataset shards, laid out as img2dataset does.

    DEST/train/00000.tar   {key}.jpg {key}.txt
    DEST/val/00000.tar     the same form, held out: num_eval // 4 scenes for a held-out loss
    DEST/eval/00000.tar    also {key}.json (targets, boxes, camera, light), {key}.depth.npy, {key}.normal.npy,
                           {key}.mask.png
    DEST/eval/targets.json what the targets are
    DEST/*/_orchestrator/geometry/00000.parquet   depth, normals and masks as annotations of the shard, of each split

A shard is a pure function of (seed, split, its first index): the bytes do not depend on who writes it or when.
The folder appears whole or not at all; it is built beside DEST and renamed.
"""

import io
import json
import multiprocessing
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.data.scenes.captions import describe
from orchestrator.data.scenes.geometry import encode_geometry, geometry_annotation, write_geometry
from orchestrator.data.scenes.render import GroundTruth, render_ground_truth, render_image
from orchestrator.data.scenes.sample import SPLITS, random_stream, sample_scene
from orchestrator.data.scenes.scene import TAN_HALF_VIEW, Scene
from orchestrator.data.scenes.targets import TARGETS
from orchestrator.errors import DatasetError, WorkerLostError
from orchestrator.storage.destination import explaining_writes

JPEG_QUALITY = 90
MAX_SAMPLES_PER_SHARD = 10_000  # four digits of the key
MAX_SHARDS = 100_000  # five digits of the key
MAX_IMAGE_SIZE = 1024
MAX_PROCESSES = 1024


@dataclass(frozen=True)
class ScenesSummary:
    """What was written, by split where it is a mapping."""

    dest: str
    num_samples: dict[str, int]
    num_shards: dict[str, int]
    num_bytes: int


@dataclass(frozen=True)
class _Shard:
    path: Path
    seed: int
    split: str
    number: int
    first_index: int
    num_samples: int
    image_size: int
    annotate: bool

    @property
    def keys(self) -> list[str]:
        """Of its samples."""
        return [f"{self.number:05d}{position:04d}" for position in range(self.num_samples)]


def write_scenes(
    dest: str,
    num_train: int,
    num_eval: int,
    seed: int,
    *,
    image_size: int = 64,
    samples_per_shard: int = 250,
    annotate: bool = True,
    num_processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScenesSummary:
    """Write the splits train, val (num_eval // 4) and eval into the new or empty local folder ``dest``.

    ``annotate``: beside the shards of all splits, their ground truth as annotations. ``num_processes`` defaults to the
    number of cores; with 1 everything happens in this process. ``progress`` is called with (scenes written, scenes in
    all) after each shard. The same arguments give the same bytes.

    Raises DatasetError for counts or sizes out of range and for a folder that already holds something,
    StorageAccessError for one that cannot be written, WorkerLostError when a rendering process dies. Whichever way,
    nothing is left behind.
    """
    num_samples = {"train": num_train, "val": num_eval // 4, "eval": num_eval}
    num_processes = (os.cpu_count() or 1) if num_processes is None else num_processes
    _check_request(num_samples, seed, image_size, samples_per_shard, num_processes)
    target = Path(dest).absolute()
    with explaining_writes(target), _appearing(dest) as folder:
        shards = [
            shard
            for split in SPLITS
            for shard in _plan_shards(
                folder / split, seed, split, num_samples[split], image_size, samples_per_shard, annotate
            )
        ]
        _write_shards(shards, num_processes, progress)
        described = {name: item.describe() for name, item in TARGETS.items()}
        (folder / "eval" / "targets.json").write_bytes(_json_bytes({"targets": described}))
    num_shards = {split: sum(shard.split == split for shard in shards) for split in SPLITS}
    num_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return ScenesSummary(str(target), num_samples, num_shards, num_bytes)


def _check_request(
    num_samples: dict[str, int], seed: int, image_size: int, samples_per_shard: int, num_processes: int
) -> None:
    most = MAX_SHARDS * samples_per_shard
    for what, value, low, high in (
        ("samples_per_shard", samples_per_shard, 1, MAX_SAMPLES_PER_SHARD),
        ("num_train", num_samples["train"], 1, most),
        ("num_eval", num_samples["eval"], 4, most),  # at least one held-out scene
        ("seed", seed, 0, 2**32 - 1),
        ("image_size", image_size, 16, MAX_IMAGE_SIZE),
        ("num_processes", num_processes, 1, MAX_PROCESSES),
    ):
        if not low <= value <= high:
            raise DatasetError(f"scenes: {what} is {value}, expected {low} to {high}.")


@contextmanager
def _appearing(dest: str) -> Iterator[Path]:
    """A folder that becomes ``dest`` at the end."""
    target = _empty_target(dest)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as staging:
        folder = Path(staging) / target.name
        yield folder
        folder.replace(target)


def _empty_target(dest: str) -> Path:
    if "://" in dest:
        raise DatasetError(f"scenes: {dest!r} is not a local folder; write to one and copy it to the store.")
    target = Path(dest).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"scenes: {dest!r} exists and is not an empty folder; delete it or name another.")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _plan_shards(
    folder: Path, seed: int, split: str, num_samples: int, image_size: int, samples_per_shard: int, annotate: bool
) -> Iterator[_Shard]:
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, num_samples, samples_per_shard)):
        count = min(samples_per_shard, num_samples - first)
        yield _Shard(folder / f"{number:05d}.tar", seed, split, number, first, count, image_size, annotate)


def _write_shards(shards: list[_Shard], num_processes: int, progress: Callable[[int, int], None] | None) -> None:
    total, done = sum(shard.num_samples for shard in shards), 0
    for num_written in _written(shards, num_processes):
        done += num_written
        if progress is not None:
            progress(done, total)


def _written(shards: list[_Shard], num_processes: int) -> Iterator[int]:
    """Writes the shards and yields how many scenes each held, as they are done."""
    workers = min(num_processes, len(shards))
    if workers == 1 or multiprocessing.current_process().daemon:  # a daemon may have no children
        yield from map(_write_shard, shards)
        return
    # spawn: the caller may hold threads (Ray, torch), which do not survive a fork.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(_write_shard, shard) for shard in shards]):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkerLostError(
                f"scenes: a process that renders died: out of memory with {workers} of them, or the calling script "
                "cannot be imported again (no file, or no __main__ guard). Try num_processes=1."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _write_shard(shard: _Shard) -> int:
    rows = []
    with tarfile.open(shard.path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, key in enumerate(shard.keys, shard.first_index):
            scene = sample_scene(shard.seed, shard.split, index)
            truth = render_ground_truth(scene, shard.image_size)
            for extension, content in _members(shard, scene, truth, index):
                info = tarfile.TarInfo(f"{key}.{extension}")  # its defaults: owner 0, mode 644, time 0
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            if shard.annotate:
                rows.append(encode_geometry(truth))
    if shard.annotate:
        write_geometry(shard.path, geometry_annotation(shard.seed, shard.image_size), shard.keys, rows)
    return shard.num_samples


def _members(shard: _Shard, scene: Scene, truth: GroundTruth, index: int) -> Iterable[tuple[str, bytes]]:
    caption = describe(scene, random_stream(shard.seed, shard.split, "caption", index))
    yield "jpg", _image_bytes(render_image(scene, shard.image_size), "JPEG", quality=JPEG_QUALITY)
    yield "txt", caption.encode()
    if shard.split == "eval":
        yield "json", _json_bytes(_annotation(scene, truth, caption))
        yield "depth.npy", _array_bytes(truth.depth)
        yield "normal.npy", _array_bytes(truth.normal)
        yield "mask.png", _image_bytes(truth.mask, "PNG")


def _annotation(scene: Scene, truth: GroundTruth, caption: str) -> dict[str, Any]:
    """The ``json`` member: targets by name, and objects in the order of their mask values (1, 2, ...)."""
    size = truth.mask.shape[0]
    return {
        "caption": caption,
        "targets": {name: target.value(scene) for name, target in TARGETS.items()},
        "objects": [
            {
                "shape": item.shape,
                "color": item.color,
                "box": truth.box(k),
                "depth_m": scene.camera.project(item.center_3)[2],
                "radius_m": item.radius_m,
            }
            for k, item in enumerate(scene.objects)
        ],
        "ground": scene.ground,
        "sky": scene.sky,
        "light": {"azimuth_deg": scene.light.azimuth_deg, "elevation_deg": scene.light.elevation_deg},
        "camera": {"height_m": scene.camera.height_m, "focal_px": size / (2 * TAN_HALF_VIEW)},
    }


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _array_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _image_bytes(image: NDArray[np.uint8], file_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()
