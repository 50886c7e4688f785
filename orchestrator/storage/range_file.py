"""Ranges of an object as a file, for Arrow."""

import io
from collections.abc import Callable


class RangeFile(io.RawIOBase):
    """A file over a function that reads (offset, length): fewer bytes where the object of ``size_bytes`` ends."""

    def __init__(self, read_at: Callable[[int, int], bytes], size_bytes: int) -> None:
        super().__init__()
        self._read_at, self._size_bytes = read_at, size_bytes
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size_bytes}[whence]
        self._offset = base + offset
        return self._offset

    def read(self, size: int = -1) -> bytes:
        length = size if size >= 0 else self._size_bytes - self._offset
        data = self._read_at(self._offset, length)
        self._offset += len(data)
        return data
