"""An S3 store whose ranged reads go through a local cache."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.storage.range_cache import RangeCache
from orchestrator.storage.range_file import RangeFile
from orchestrator.storage.s3 import S3Store
from orchestrator.storage.store import ObjectNotFoundError

if TYPE_CHECKING:
    from pyarrow import NativeFile


@dataclass(frozen=True)
class CachedS3Store(S3Store):
    """As its parent; a range of an object with a known etag crosses the network once."""

    cache: RangeCache

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        read = super().read_range
        return self.cache.fetch(f"{self.uri}/{path}", etag, offset, length, lambda: read(path, offset, length, etag))

    def open_input(self, path: str) -> "NativeFile":
        """Parquet's reads are ranges too: the same row group is the same ranges."""
        from pyarrow import PythonFile  # takes a second to import, and shards that are tars need none

        info = self.stat(path)
        if info is None:
            raise ObjectNotFoundError(f"{self.uri}/{path} does not exist")
        read_at = partial(self.read_range, path, etag=info.etag)
        return PythonFile(RangeFile(read_at, info.size_bytes), mode="r")
