"""Ranges of stored objects on a local disk, for what is read again: another epoch, another task of the same window.

A folder of files named by the hash of what they are; any number of processes of a machine share it. When it is full,
what was used longest ago goes. Only objects with an etag are kept, so that a shard that changed is never read from it.
Nothing is synced: after an unclean end of the machine files may be shorter than they were written, and are read anew.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.storage.atomic import TEMPORARY_SUFFIX, replacing
from orchestrator.storage.disk import is_full

logger = logging.getLogger(__name__)

_KEPT_FRACTION = 0.9  # of the limit, after eviction
_SIZE_FILE = ".size"  # what the folder holds, as all processes that write have counted it; locked while one counts
_ABANDONED_S = 600.0  # a temporary file of that age has lost its writer


@dataclass(frozen=True)
class RangeCache:
    """A bounded folder of ranges.

    Args:
        folder: made when it is not there.
        max_bytes: what the files of all processes together may hold.
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
            if len(data) == length:
                return data
        except FileNotFoundError:
            pass
        data = read()
        if len(data) == length <= self.max_bytes:  # a range that the object's end cuts short is not told from damage
            self._keep(file, data)
        return data

    def _keep(self, file: Path, data: bytes) -> None:
        try:
            self._reserve(len(data))
            with replacing(file) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            if not is_full(error):
                raise
            _warn_full(self.folder)

    def _reserve(self, num_bytes: int) -> None:
        """Count what is about to be written, before it is: who is killed meanwhile has counted too much at worst."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _SIZE_FILE, "a+b") as size_file:
            fcntl.flock(size_file, fcntl.LOCK_EX)
            size_file.seek(0)
            try:
                held = int(size_file.read())
            except ValueError:  # no count yet, or one that an unclean end of the machine took
                held = self.max_bytes  # look
            if held + num_bytes > self.max_bytes:
                held = self._evict(self.max_bytes - num_bytes)
            size_file.truncate(0)
            size_file.write(str(held + num_bytes).encode())

    def _evict(self, most_bytes: int) -> int:
        """Have the folder hold ``most_bytes`` at most, by what was used longest ago; returns what it holds."""
        files = self._list()
        held = sum(size for _, size, _ in files)
        wanted = most_bytes if held <= most_bytes else min(most_bytes, int(self.max_bytes * _KEPT_FRACTION))
        newest_abandoned = time.time() - _ABANDONED_S
        for used_at, size, name in files:
            if held <= wanted:
                break
            if not name.endswith(TEMPORARY_SUFFIX) or used_at < newest_abandoned:
                Path(name).unlink(missing_ok=True)
                held -= size
        return held

    def _list(self) -> list[tuple[float, int, str]]:
        """When each file was used, its size and path; what was used longest ago first."""
        with os.scandir(self.folder) as entries:
            names = [entry.path for entry in entries if entry.name != _SIZE_FILE]
        files = []
        for name in names:
            try:
                found = os.stat(name)
            except FileNotFoundError:  # a temporary file that has its name now
                continue
            files.append((found.st_mtime, found.st_size, name))
        return sorted(files)


@cache
def _warn_full(folder: str) -> None:
    """Once a process. A cache that takes no more costs time, not the run."""
    logger.warning("the disk of storage.cache.folder %s is full; what it does not hold is read from the bucket", folder)
