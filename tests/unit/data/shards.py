"""Small shards for the tests of this folder."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

Members = Iterable[tuple[str, bytes]]


def image_bytes(color: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (12, 8), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, form)
    return buffer.getvalue()


def sample_members(number: int) -> list[tuple[str, bytes]]:
    """A sample whose image, caption and target all carry its number."""
    return [
        (f"{number:05d}.png", image_bytes((number % 256, 0, 0))),
        (f"{number:05d}.txt", f"caption {number}".encode()),
        (f"{number:05d}.json", json.dumps({"targets": {"parity": number % 2, "name": f"n{number}"}}).encode()),
    ]


def tar_bytes(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(folder: Path, name: str, numbers: Iterable[int]) -> Path:
    """A shard of the samples of those numbers."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(member for number in numbers for member in sample_members(number)))
    return path
