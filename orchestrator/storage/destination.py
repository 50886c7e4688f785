"""Local folders and files that a user names to write into."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import StorageAccessError
from orchestrator.storage.disk import naming_full_disk


def local_destination(destination: str) -> Path:
    """The absolute path. Raises StorageAccessError for a URI, of which a path would make a folder ``s3:`` here."""
    if "://" in destination:
        raise StorageAccessError(
            f"{destination} is a URI, but this is written to a local disk only; name a path, then copy what lies there"
        )
    return Path(destination).absolute()


@contextmanager
def explaining_writes(target: Path) -> Iterator[None]:
    """Around writes to ``target``. Raises StorageAccessError for what the operating system refuses."""
    try:
        with naming_full_disk(target.parent):
            yield
    except OSError as error:
        where = error.filename or target
        raise StorageAccessError(
            f"{target} cannot be written ({where}: {error.strerror or error}); check its path and rights, or "
            f"name another"
        ) from error
