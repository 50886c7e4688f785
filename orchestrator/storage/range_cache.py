"""Ranges of stored objects on a local disk, for what is read again: another epoch, another task of the same window.

A folder of files named by the hash of what they are; any number of processes of a machine share it. When it is full,
what was used longest ago goes. Only objects with an etag are kept, so that a shard that changed is never read from it.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.storage.atomic import TEMPORARY_SUFFIX, replacing
from orchestrator.storage.disk import is_full

logger = logging.getLogger(__name__)

_CHECKS_PER_FILL = 64  # a process looks at the whole folder each time that it has written this part of the limit
_KEPT_FRACTION = 0.9  # of the limit, after eviction
_written_bytes: dict[str, int] = {}  # by folder, of this process, since its last look


@dataclass(frozen=True)
class RangeCache:
    """A bounded folder of ranges.

    Args:
        folder: made when it is not there.
        max_bytes: what the files may hold; exceeded by 1/64 of it for each process that writes.
    """

    folder: str
    max_bytes: int

    def fetch(self, uri: str, etag: str, offset: int, length: int, read: Callable[[], bytes]) -> bytes:
        """The range from the folder, else from ``read``, and kept; an empty ``etag`` always reads."""
        if not etag:
            return read()
        name = hashlib.sha256(f"{uri}\n{etag}\n{offset}\n{length}".encode()).hexdigest()
        file = Path(self.folder, name)
        try:
            data = file.read_bytes()
            os.utime(file)  # used now
            return data
        except FileNotFoundError:
            data = read()
        try:
            with replacing(file) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            if not is_full(error):
                raise
            _warn_full(self.folder)
            return data
        self._note_written(len(data))
        return data

    def _note_written(self, num_bytes: int) -> None:
        written = _written_bytes.get(self.folder, 0) + num_bytes
        _written_bytes[self.folder] = written
        if written * _CHECKS_PER_FILL >= self.max_bytes:
            _written_bytes[self.folder] = 0
            self._evict()

    def _evict(self) -> None:
        with os.scandir(self.folder) as entries:
            names = [entry.path for entry in entries if not entry.name.endswith(TEMPORARY_SUFFIX)]
        files = []
        for name in names:
            try:
                found = os.stat(name)
            except FileNotFoundError:  # another process evicts too
                continue
            files.append((found.st_mtime_ns, found.st_size, name))
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return
        for _, size, name in sorted(files):
            if total <= self.max_bytes * _KEPT_FRACTION:
                return
            Path(name).unlink(missing_ok=True)
            total -= size


@cache
def _warn_full(folder: str) -> None:
    """Once a process. A cache that takes no more costs time, not the run."""
    logger.warning("the disk of storage.cache.folder %s is full; what it does not hold is read from the bucket", folder)
