"""Small shards for the tests of this folder."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Members = list[tuple[str, bytes]]


class ShardMaker:
    """Writes shards into a folder; a sample's image, caption and targets all carry its number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def image(color: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (12, 8)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, color).save(buffer, "PNG")
        return buffer.getvalue()

    def members(self, number: int) -> Members:
        targets = {"targets": {"parity": number % 2, "name": f"n{number}"}}
        return [
            (f"{number:05d}.png", self.image((number % 256, 0, 0))),
            (f"{number:05d}.txt", f"caption {number}".encode()),
            (f"{number:05d}.json", json.dumps(targets).encode()),
        ]

    def write_members(self, name: str, members: Members, form: int = tarfile.USTAR_FORMAT) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=form) as tar:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    def write_tar(self, name: str, numbers: Iterable[int]) -> Path:
        return self.write_members(name, [member for number in numbers for member in self.members(number)])

    def write_parquet(self, name: str, numbers: Iterable[int], rows_per_group: int = 50) -> Path:
        rows = [
            {"png": self.image((number % 256, 0, 0)), "txt": f"caption {number}", "other": number} for number in numbers
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.folder / name, row_group_size=rows_per_group)
        return self.folder / name


@pytest.fixture(scope="session")
def shard_maker() -> type[ShardMaker]:
    """For folders that several tests share."""
    return ShardMaker


@pytest.fixture
def maker(tmp_path: Path) -> ShardMaker:
    return ShardMaker(tmp_path)
