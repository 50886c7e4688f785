"""Walking a tar archive header by header, through a function that reads at an offset.

Reads ustar, GNU long names and pax (path, size), and nothing is ever written to a file system. What is no plain file
(links, devices, fifos, sparse files), or has a name that would leave the folder of whoever unpacks it, is refused: it
comes with the reason, and without content. Unlike Python's tarfile it never takes a damaged header or a missing
end marker for the end of the archive. It works on any range that begins at a header, so that a chunk is parsed by
the code that indexed it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import adler32

BLOCK_BYTES = 512
MAX_MEMBER_BYTES = 256 * 2**20  # a header that asks for more is damage or an attack on memory
MAX_NAME_BYTES = 2**16

_BLANK_CHECKSUM = 8 * ord(" ")  # what the checksum's own field counts as
_PLAIN = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")  # links, devices, folders: their size says nothing
_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX_HEADER = ord("L"), ord("K"), ord("x")
_BESIDE_FILES = frozenset(b"5gV")  # folders, what pax says of all members, a label: nobody misses them
_SPARSE, _SPARSE_KEYS = ord("S"), b"GNU.sparse."
_REFUSED_KINDS = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a fifo",
    _SPARSE: "a sparse file",
}

ReadAt = Callable[[int, int], bytes]
"""(offset, length) to bytes; fewer where the source ends."""


class TarFaultError(Exception):
    """The archive breaks off or is damaged; says at which byte. ``reason`` is one of ``problems.REASONS``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar archive."""

    name: str
    start: int
    """Offset of its first header, long-name headers included."""
    data_start: int
    size_bytes: int
    refused: str = ""
    """Why its content is not for reading; empty for a plain file."""

    @property
    def stop(self) -> int:
        """Offset behind its padding."""
        return self.data_start + _padded(self.size_bytes)


class _Extension(NamedTuple):
    """What headers before a member's own say of it."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False

    def followed_by(self, later: "_Extension") -> "_Extension":
        """What both say; the later one has the last word."""
        size = self.size if later.size is None else later.size
        return _Extension(later.name or self.name, size, self.is_sparse or later.is_sparse)


def walk_members(read_at: ReadAt, start: int, stop: int, *, marked: bool) -> Iterator[TarMember]:
    """The files whose headers lie in [start, stop), refused ones included.

    Args:
        marked: whether an end-of-archive marker must come before ``stop`` (a whole archive has one, a part of it
            has none).

    Raises TarFaultError behind the last whole member.
    """
    offset, first, extension = start, start, _Extension()
    while offset < stop:
        header = read_at(offset, BLOCK_BYTES)
        if len(header) < BLOCK_BYTES:
            raise TarFaultError("truncated_header", f"cut off inside the header at byte {offset}")
        if not any(header):
            if first < offset:
                raise TarFaultError("truncated_header", f"no member behind the long name at byte {first}")
            return
        kind = header[156]
        header_size = _checked_size(header, offset)
        data_start = offset + BLOCK_BYTES
        if kind in (_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX_HEADER):
            if header_size > MAX_NAME_BYTES:
                raise TarFaultError(
                    "header_damaged", f"a name of {header_size} bytes at byte {offset}; at most {MAX_NAME_BYTES}"
                )
            data = read_at(data_start, header_size)
            if len(data) < header_size:
                raise TarFaultError("truncated_header", f"cut off inside the long name at byte {offset}")
            if kind == _GNU_LONG_NAME:
                extension = extension._replace(name=data.rstrip(b"\0").decode(errors="surrogateescape"))
            elif kind == _PAX_HEADER:
                extension = extension.followed_by(_read_pax(data, offset))
            offset = data_start + _padded(header_size)
            continue
        size_bytes = 0 if kind in _WITHOUT_DATA else header_size if extension.size is None else extension.size
        name = extension.name or _name(header)
        refused = _refusal(_SPARSE if extension.is_sparse else kind, name)
        member = TarMember(name, first, data_start, size_bytes, refused)
        if size_bytes > MAX_MEMBER_BYTES:
            raise TarFaultError(
                "member_too_large", f"a member of {size_bytes} bytes at byte {offset}; at most {MAX_MEMBER_BYTES}"
            )
        behind = member.stop
        if behind > stop:
            raise TarFaultError(
                "truncated_data", f"cut off inside {member.name}, which needs bytes up to {behind} of {stop}"
            )
        if member.refused or (kind in _PLAIN and not name.endswith("/")):
            yield member
        offset = first = behind
        extension = _Extension()
    if marked:
        raise TarFaultError("truncated_end", f"no end-of-archive marker at byte {offset}: cut off between two members")


def _refusal(kind: int, name: str) -> str:
    if name.startswith("/"):
        return "an absolute name"
    if ".." in name.split("/"):
        return "a name with '..'"
    if kind in _PLAIN or kind in _BESIDE_FILES:
        return ""
    return _REFUSED_KINDS.get(kind, f"no plain file (type {chr(kind)!r})")


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _checked_size(header: bytes, offset: int) -> int:
    """The size field of a header whose checksum holds."""
    try:
        checksum = _number(header[148:156])
        size = _number(header[124:136])
    except ValueError as error:
        raise TarFaultError("header_damaged", f"no tar header at byte {offset}") from error
    total = _sum(header[:256]) + _sum(header[256:]) - _sum(header[148:156]) + _BLANK_CHECKSUM
    if total != checksum or size < 0:
        raise TarFaultError("header_damaged", f"damaged header at byte {offset}: its checksum does not hold")
    return size


def _sum(part: bytes) -> int:
    """The sum of up to 256 bytes: the lower half of their Adler-32, which is 1 + the sum modulo 65,521."""
    return (adler32(part) & 0xFFFF) - 1


def _number(field: bytes) -> int:
    """Octal digits, or base 256 behind a set high bit (GNU, for large sizes)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode(errors="surrogateescape")


def _read_pax(data: bytes, offset: int) -> _Extension:
    """A pax header: records of the form ``length key=value newline``.

    GNU tar stores a sparse file as a plain one with keys of its own; its name may be among them.
    """
    fields: dict[bytes, bytes] = {}
    position = 0
    try:
        while position < len(data):
            length = _decimal(data[position : data.index(b" ", position)])
            record = data[position : position + length]
            key, value = record[record.index(b" ") + 1 : -1].split(b"=", 1)
            fields[key] = value
            position += max(length, 1)
        path, size = fields.get(_SPARSE_KEYS + b"name") or fields.get(b"path"), fields.get(b"size")
        return _Extension(
            path.decode(errors="surrogateescape") if path else None,
            _decimal(size) if size else None,
            any(key.startswith(_SPARSE_KEYS) for key in fields),
        )
    except ValueError as error:
        raise TarFaultError("header_damaged", f"damaged pax header at byte {offset}") from error


def _decimal(field: bytes) -> int:
    """Digits alone: a size below zero would lead back to members that were walked already, without end."""
    if not field.isdigit():
        raise ValueError(f"{field!r} is no number of bytes")
    return int(field)
