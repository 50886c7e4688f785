"""A disk of this machine that is full, said by name: which folder, on which host, and what to do about it."""

import errno
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import StorageAccessError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAYS_FULL = re.compile(rf"os error ({'|'.join(map(str, _FULL))})\b")  # how libraries in Rust (safetensors) tell it


def is_full(error: BaseException) -> bool:
    """Whether this is what a write meets on a full disk, or past a quota."""
    return error.errno in _FULL if isinstance(error, OSError) else bool(_SAYS_FULL.search(str(error)))


@contextmanager
def naming_full_disk(folder: Path | str) -> Iterator[None]:
    """Around writes into ``folder``. Raises StorageAccessError where its disk is full; other errors pass."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise StorageAccessError(
            f"the disk of {folder} on {socket.gethostname()} is full; make room there, or name another (TMPDIR for "
            f"files on their way, storage in the cluster file); a run goes on from its last checkpoint"
        ) from error
