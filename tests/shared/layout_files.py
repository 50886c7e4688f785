"""Small sets of labelled images in the layouts of their publishers; an image's red says which one it is."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02012849")  # tench, goldfish, crane (the bird)


def picture(number: int) -> bytes:
    """An image whose red is its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, content: str | bytes | dict[str, Any]) -> None:
    """A file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def write_folders(root: Path, per_class: int, first: int = 0) -> None:
    """As ImageNet is unpacked."""
    for place, wnid in enumerate(WNIDS):
        for number in range(per_class):
            put(root / wnid / f"{wnid}_{number:02d}.JPEG", picture(first + place * per_class + number))


def write_clip_benchmark(root: Path, split: str, labels: list[bytes], kind: str = "cls") -> None:
    """Shards of up to four samples."""
    for shard, start in enumerate(range(0, len(labels), 4)):
        (root / split).mkdir(parents=True, exist_ok=True)
        with tarfile.open(root / split / f"{shard}.tar", "w") as tar:
            for number, label in list(enumerate(labels))[start : start + 4]:
                for extension, data in (("png", picture(number)), (kind, label)):
                    info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    put(root / split / "nshards.txt", f"{-(-len(labels) // 4)}\n")


def write_coco(root: Path, split: str = "val2017", num_images: int = 7) -> None:
    """Numbers fall where names rise; two of three images hold objects, and each has five captions."""
    images = [{"id": 100 - number, "file_name": f"{number:012d}.jpg"} for number in range(num_images)]
    for number in range(num_images):
        put(root / split / f"{number:012d}.jpg", picture(number))
    captions = [{"image_id": one["id"], "caption": f"{one['id']} and\n{k} "} for one in images for k in range(5)]
    put(root / f"annotations/captions_{split}.json", {"images": images, "annotations": captions})
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    held = {0: (1, 1), 1: (1, 18), 2: ()}
    objects = [{"image_id": 100 - n, "category_id": k} for n in range(num_images) for k in held[n % 3]]
    content = {"images": images, "annotations": objects, "categories": categories}
    put(root / f"annotations/instances_{split}.json", content)


def write_flickr(root: Path, table: bool = False) -> None:
    """Four images, the second and the last in the test split."""
    splits = ("train", "test", "val", "test")
    for number in range(4):
        put(root / f"flickr30k-images/{number}.jpg", picture(number))
    if table:
        rows = [f'"[""{number} a"", ""b, {number}""]",{splits[number]},{number}.jpg' for number in range(4)]
        put(root / "flickr_annotations_30k.csv", "\n".join(["raw,split,filename", *rows]))
        return
    sentences = [[{"raw": f"{number} a"}, {"raw": f" b, {number}"}] for number in range(4)]
    images = [{"filename": f"{n}.jpg", "split": splits[n], "sentences": sentences[n]} for n in range(4)]
    put(root / "dataset_flickr30k.json", {"images": images})
