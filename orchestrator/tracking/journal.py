"""The journal: what a run wants recorded, on local disk before any server has seen it.

One file of JSON lines that only grows at its end, and beside it the offset up to which the entries are delivered.
An entry is one ``write`` to the operating system: it survives the death of the process, not that of the machine
(no ``fsync``: it would cost a step milliseconds). A line torn by a crash is cut off at the next opening. When all
is delivered and the file is large, it starts again from empty.

The journal is bounded. Up to half of ``cap_bytes`` undelivered it takes everything; above, every tenth metrics
entry; at the cap, none. The other kinds (parameters, checkpoints, evaluations, status) are few and always taken.
What was not taken is counted in ``dropped`` and said in the log.
"""

import fcntl
import json
import logging
import mmap
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import TrackingError
from orchestrator.redaction import redact

logger = logging.getLogger(__name__)

# Kinds of entries.
METRICS = "metrics"
PARAMS = "params"
TAGS = "tags"
TEXT = "text"
INPUT = "input"
CHECKPOINT = "checkpoint"
EVALUATION = "evaluation"
REMOVAL = "removal"
VERSION = "version"
STATUS = "status"
DAMAGED = "damaged"  # a line that does not parse

CAP_BYTES = 256 * 2**20
_RESTART_BYTES = 8 * 2**20  # a delivered file of this size starts again from empty
_KEEP_EVERY = 10
_LOCK_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Entry:
    """One record. ``end`` is the journal's offset behind it."""

    kind: str
    time_ms: int
    fields: dict[str, Any]
    end: int


class Journal:
    """One writer's journal. Raises TrackingError where it cannot be written, or has a live writer already."""

    def __init__(self, path: Path, cap_bytes: int = CAP_BYTES, patience_s: float = 0.0) -> None:
        """``patience_s``: how long to wait for another writer to end."""
        self.path = path
        self.dropped = 0
        self.refused = 0
        self._cap_bytes = cap_bytes
        self._offset_path = path.with_suffix(".offset")
        self._refused_path = path.with_suffix(".refused.jsonl")
        self._lock = threading.Lock()
        self._offered = 0
        self._open = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise TrackingError(
                f"journal {path} cannot be written: {error}; a run needs a local folder for its records"
            ) from error
        if not _lock(self._fd, patience_s):
            os.close(self._fd)
            waited = f" and was not given up within {patience_s:g} s" if patience_s else ""
            raise TrackingError(
                f"journal {path} is in use by another process{waited}: a run has one writer, and delivers its own "
                f"journal; try again when the other command has ended"
            )
        self._size = _cut_torn_line(self._fd)
        self._shipped = self._load_offset()

    @property
    def unshipped_bytes(self) -> int:
        """Bytes that no server has confirmed."""
        return self._size - self._shipped

    def append(self, kind: str, **fields: object) -> None:
        """Add an entry. Never raises: a full disk or a full journal drops the entry, counts it and says so."""
        text = json.dumps({"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields})
        line = (text if kind == METRICS else redact(text)).encode() + b"\n"
        with self._lock:
            if not self._open:
                self._drop(f"journal {self.path} is closed")
            elif kind == METRICS and not self._admits_metrics():
                self._drop(f"journal {self.path} holds {self.unshipped_bytes} undelivered bytes")
            else:
                self._write(line)

    def read(self, max_bytes: int = 2**20) -> list[Entry]:
        """The oldest undelivered entries: about ``max_bytes`` of them, at least one when there is one."""
        with self._lock:
            chunk = self._read_lines(max_bytes) if self._open else b""
            end = self._shipped
        entries = []
        for line in chunk.splitlines(keepends=True):
            end += len(line)
            entries.append(_parse(line, end))
        return entries

    def mark_shipped(self, end: int) -> None:
        """Everything before ``end`` is delivered."""
        with self._lock:
            if not self._open:
                return
            self._shipped = end
            if end == self._size and end >= _RESTART_BYTES:
                os.ftruncate(self._fd, 0)
                self._size = self._shipped = 0
            pending = self._offset_path.with_suffix(".offset.new")
            pending.write_text(str(self._shipped))
            pending.replace(self._offset_path)

    def put_aside(self, entries: Sequence[Entry]) -> None:
        """Keep entries that the server will not take in ``*.refused.jsonl``, and count them."""
        with self._refused_path.open("a") as refused:
            refused.writelines(json.dumps({"kind": entry.kind, **entry.fields}) + "\n" for entry in entries)
        self.refused += len(entries)

    def close(self) -> int:
        """Give up the file; returns how many entries are undelivered."""
        with self._lock:
            if not self._open:
                return 0
            self._open = False
            left = sum(os.pread(self._fd, 2**20, at).count(b"\n") for at in range(self._shipped, self._size, 2**20))
            os.close(self._fd)
            return left

    def _read_lines(self, max_bytes: int) -> bytes:
        chunk = b""
        while not chunk.endswith(b"\n") and self._shipped + len(chunk) < self._size:
            at = self._shipped + len(chunk)
            chunk += os.pread(self._fd, min(max_bytes, self._size - at), at)
            chunk = chunk[: chunk.rfind(b"\n") + 1] or chunk  # one line may be longer than max_bytes
        return chunk

    def _admits_metrics(self) -> bool:
        if self.unshipped_bytes < self._cap_bytes // 2:
            return True
        self._offered += 1
        return self.unshipped_bytes < self._cap_bytes and self._offered % _KEEP_EVERY == 0

    def _write(self, line: bytes) -> None:
        try:
            if os.write(self._fd, line) == len(line):
                self._size += len(line)
                return
            reason = "the disk took only a part of it"
        except OSError as error:
            reason = str(error)
        os.ftruncate(self._fd, self._size)
        self._drop(f"cannot write journal {self.path}: {reason}")

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if (self.dropped & (self.dropped - 1)) == 0:  # at 1, 2, 4, 8, ...
            logger.warning("%s; %d entries not recorded so far", reason, self.dropped)

    def _load_offset(self) -> int:
        try:
            offset = int(self._offset_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        # Beyond the end: the file was emptied, and the process died before it could say so.
        return offset if offset <= self._size else 0


def _lock(fd: int, patience_s: float) -> bool:
    """Whether this process has the file for itself, within ``patience_s``."""
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_LOCK_INTERVAL_S)


def _parse(line: bytes, end: int) -> Entry:
    try:
        fields = json.loads(line)
        return Entry(fields.pop("kind"), fields.pop("time_ms"), fields, end)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Entry(DAMAGED, 0, {"line": line.decode(errors="replace")}, end)


def _cut_torn_line(fd: int) -> int:
    """Cut the file behind its last whole line; returns the size."""
    size = os.fstat(fd).st_size
    if size == 0:
        return 0
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as content:
        whole = content.rfind(b"\n") + 1
    if whole < size:
        logger.warning("a crash left %d bytes of an unfinished entry; cut off", size - whole)
        os.ftruncate(fd, whole)
    return whole
