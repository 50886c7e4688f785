"""A folder as a store. Writes go to a temporary file that is renamed: readers see all of an object or nothing.

Conditional writes hold an advisory lock (flock) on a file beside the object, so they are exact between processes
of one machine and on network file systems that carry locks.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from orchestrator.errors import ShardReadError, StorageAccessError
from orchestrator.storage.atomic import TEMPORARY_SUFFIX, replacing
from orchestrator.storage.disk import naming_full_disk
from orchestrator.storage.store import ObjectChangedError, ObjectInfo, ObjectNotFoundError, Store, checked_path

if TYPE_CHECKING:
    from pyarrow import NativeFile

_LOCK_SUFFIX = ".lock"
_REFUSALS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)


@dataclass(frozen=True)
class LocalStore(Store):
    """``uri`` is the absolute path of the folder; it is made by the first write."""

    read_unit_bytes: ClassVar[int] = 2**14

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        with self._explained(path), open(self._file(path), "rb") as file:
            return file.read(), _version(os.fstat(file.fileno()))

    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        with self._explained(path), open(self._file(path), "rb", buffering=0) as file:
            file.seek(offset)
            parts: list[bytes] = []
            while part := file.read(length - sum(map(len, parts))):
                parts.append(part)
            # Asked after reading: a file that is overwritten meanwhile is noticed too.
            status = os.fstat(file.fileno())
            if etag and etag not in (_etag(status), _version(status)):
                raise ObjectChangedError(
                    f"{self.uri}/{path} is no longer version {etag}; files that are copied to several nodes must keep "
                    f"their times (rsync -a, cp -p)"
                )
            return b"".join(parts)  # of a single part, as it mostly is, itself

    def open_input(self, path: str) -> "NativeFile":
        import pyarrow

        with self._explained(path):
            return pyarrow.OSFile(str(self._file(path)), "rb")

    def write_bytes(self, path: str, data: bytes) -> None:
        with self._explained(path), replacing(self._file(path)) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def create_bytes(self, path: str, data: bytes) -> bool:
        return self._write_if(path, data, None)

    def replace_bytes(self, path: str, data: bytes, etag: str) -> bool:
        return self._write_if(path, data, etag)

    def checks_conditions(self) -> bool:
        return True

    def upload(self, local_path: Path | str, path: str) -> None:
        with self._explained(path), replacing(self._file(path)) as temporary:
            shutil.copyfile(local_path, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # before a marker names it, and older ones are removed

    def download(self, path: str, local_path: Path | str) -> None:
        target = Path(local_path)
        with self._explained(path), naming_full_disk(target.parent), replacing(target) as temporary:
            shutil.copyfile(self._file(path), temporary)

    def list(self, prefix: str = "") -> tuple[ObjectInfo, ...]:
        root = Path(self.uri)
        found = []
        with self._explained(prefix):
            start = root / checked_path(prefix) if prefix else root
            for folder, folders, names in os.walk(start, onerror=_raise_if_real, followlinks=True):
                folders[:] = [name for name in folders if not _is_listed(Path(folder, name), root)]
                for name in names:
                    if name.startswith(".") and name.endswith((TEMPORARY_SUFFIX, _LOCK_SUFFIX)):
                        continue
                    info = self.stat(Path(folder, name).relative_to(root).as_posix())
                    if info is not None:  # else deleted since it was listed
                        found.append(info)
        return tuple(sorted(found, key=lambda info: info.path))

    def folders(self) -> tuple[str, ...]:
        try:
            with self._explained(""), os.scandir(self.uri) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_dir()))
        except ObjectNotFoundError:  # an absent folder holds nothing
            return ()

    def stat(self, path: str) -> ObjectInfo | None:
        with self._explained(path):
            try:
                status = os.stat(self._file(path))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return ObjectInfo(path, status.st_size, _etag(status))

    def delete(self, path: str) -> None:
        with self._explained(path):
            self._file(path).unlink(missing_ok=True)

    def delete_folder(self, path: str) -> None:
        with self._explained(path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._file(path))

    def check(self, write: bool) -> None:
        folder = Path(self.uri)
        if write:
            probe = f".check-{secrets.token_hex(4)}"
            self.write_bytes(probe, b"")
            self.delete(probe)
        elif not folder.is_dir():
            raise StorageAccessError(f"folder {self.uri} does not exist; correct the path, or storage.data above it")
        elif not os.access(folder, os.R_OK | os.X_OK):
            raise StorageAccessError(f"folder {self.uri} may not be read by this user; grant it, or name another")

    def _file(self, path: str) -> Path:
        return Path(self.uri, checked_path(path))

    def _write_if(self, path: str, data: bytes, etag: str | None) -> bool:
        """Write if the object has ``etag`` (None: is absent)."""
        file = self._file(path)
        with self._explained(path):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file.with_name(f".{file.name}{_LOCK_SUFFIX}"), "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _version_of(file) != etag:
                    return False
                self.write_bytes(path, data)
                return True

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Operating system errors as ours."""
        try:
            with naming_full_disk(self.uri):
                yield
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"{error.filename or self._file(path)} does not exist") from error
        except OSError as error:
            if isinstance(error, _REFUSALS) or error.errno == errno.EROFS:  # the latter has no class of its own
                where = error.filename or self._file(path)
                said = f"{where} does not open: {error.strerror}; check its path and rights"
                raise StorageAccessError(said) from error
            raise ShardReadError(f"{self.uri}/{path}: {error.strerror or error}") from error


def _etag(status: os.stat_result) -> str:
    """The same for copies that keep their times: nodes may each have one at the same path."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _version(status: os.stat_result) -> str:
    """For conditional writes. The inode tells apart two within one tick of the file system's clock: each write is a
    new file."""
    return f"{_etag(status)}-{status.st_ino:x}"


def _version_of(file: Path) -> str | None:
    """None when it is absent."""
    try:
        return _version(os.stat(file))
    except FileNotFoundError:
        return None


def _raise_if_real(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # an absent folder holds nothing
        raise error


def _is_listed(folder: Path, root: Path) -> bool:
    """Whether a folder is a link to what a walk from ``root`` comes to anyway, or to what it lies in (without end)."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    above = [parent.resolve() for parent in folder.parents if parent.is_relative_to(root)]
    return any(target.is_relative_to(parent) or parent.is_relative_to(target) for parent in above)
