"""Reading a shard from its first byte to its last, each byte once, with a hash over all of them."""

import hashlib

from orchestrator.data.retry import retried
from orchestrator.storage.store import ObjectInfo, Store

_LEAST_READ_BYTES = 2**20


class SequentialReader:
    """The bytes of one object, at rising offsets; holds no more than one read and what was last asked for.

    Every read is retried, and refused with ObjectChangedError once the object is another than ``info`` says.
    """

    def __init__(self, store: Store, info: ObjectInfo) -> None:
        self._store = store
        self._info = info
        self._unit_bytes = max(store.read_unit_bytes, _LEAST_READ_BYTES)
        self._hash = hashlib.sha256()
        self._window = b""
        self._start = 0  # of the window
        self._stop = 0  # of what was read
        self._asked = 0  # end of what was asked for

    @property
    def size_bytes(self) -> int:
        """Of the whole object."""
        return self._info.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on; fewer where the object ends."""
        if offset < self._start:  # a Parquet file may hold its columns in any order: they are read again
            return self._read(offset, length)
        self._asked = offset + length
        if self._asked > self._stop:
            parts = [self._window[offset - self._start :]]
            while self._stop < self._asked and (part := self._read_on(offset)):
                parts.append(part[max(0, offset - self._stop) :])
                self._stop += len(part)
            self._window = b"".join(parts)
            self._start = self._stop - len(self._window)
        begin = offset - self._start
        return self._window[begin : begin + length]

    def read_rest(self) -> bool:
        """Read what lies behind the last read; whether any of it is not zero."""
        any_set = False
        while part := self.read_at(self._asked, self._unit_bytes):
            any_set = any_set or part.count(0) < len(part)
        return any_set

    @property
    def sha256(self) -> str:
        """Hexadecimal, of all bytes up to the last one read."""
        return self._hash.hexdigest()

    def _read_on(self, offset: int) -> bytes:
        """The next bytes; what lies before ``offset`` comes in small parts, since nobody asked for it."""
        asked = self._asked - self._stop if self._stop >= offset else 0
        part = self._read(self._stop, max(asked, self._unit_bytes))
        self._hash.update(part)
        return part

    def _read(self, offset: int, length: int) -> bytes:
        length = min(length, self._info.size_bytes - offset)
        if length <= 0:
            return b""
        return retried(lambda: self._store.read_range(self._info.path, offset, length, self._info.etag))
