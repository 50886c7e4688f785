"""One view of folders and S3 buckets: what every storage offers, and ``open_store``, which picks by URI.

A store is a small frozen value that pickles; connections open in each process at first use. Owns names and paths
within a store; not what is written there. The two kinds are ``local.py`` and ``s3.py``, imported when asked for,
so that a job on a folder loads no S3 client.
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import urlsplit

from orchestrator.errors import StorageAccessError
from orchestrator.spec.cluster import CacheSpec, S3Spec
from orchestrator.spec.credentials import bucket_with_credentials
from orchestrator.spec.load import local_path

if TYPE_CHECKING:
    from pyarrow import NativeFile


class ObjectNotFoundError(StorageAccessError):
    """The store opens, and holds nothing under that path."""


class ObjectChangedError(StorageAccessError):
    """The object is no longer the one that was asked for."""


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object; ``path`` is relative to its store."""

    path: str
    size_bytes: int
    etag: str
    """Changes with the content; of no meaning in another store. Empty where a store has none."""


@dataclass(frozen=True)
class Store(ABC):
    """A folder or bucket prefix. Paths are relative, with ``/``.

    Every method raises StorageAccessError for what the user can repair (``ObjectNotFoundError`` for an absent
    path) and ShardReadError for input or output that failed after its retries.
    """

    uri: str

    read_unit_bytes: ClassVar[int]
    """A read below this size costs about as much as one of this size."""

    def child(self, path: str) -> Self:
        """The store of a folder within this one."""
        return dataclasses.replace(self, uri=f"{self.uri}/{checked_path(path)}")

    @abstractmethod
    def read_versioned(self, path: str) -> tuple[bytes, str]:
        """Content and etag, which belong to each other."""

    def read_bytes(self, path: str) -> bytes:
        """The whole content."""
        return self.read_versioned(path)[0]

    @abstractmethod
    def read_range(self, path: str, offset: int, length: int, etag: str = "") -> bytes:
        """``length`` bytes from ``offset`` on; fewer where the object ends before.

        Raises ObjectChangedError when the object does not have ``etag`` (empty: any will do).
        """

    @abstractmethod
    def open_input(self, path: str) -> "NativeFile":
        """A seekable Arrow file, for Parquet."""

    @abstractmethod
    def write_bytes(self, path: str, data: bytes) -> None:
        """Write or overwrite; readers see the old content or the new one, whole."""

    @abstractmethod
    def create_bytes(self, path: str, data: bytes) -> bool:
        """Write if nothing is there; False when something is."""

    @abstractmethod
    def replace_bytes(self, path: str, data: bytes, etag: str) -> bool:
        """Write if the object still has ``etag``; False when it has not, or is gone."""

    @abstractmethod
    def checks_conditions(self) -> bool:
        """Whether ``create_bytes`` and ``replace_bytes`` stay exact between simultaneous writers."""

    @abstractmethod
    def upload(self, local_path: Path | str, path: str) -> None:
        """Copy a local file here, in bounded memory."""

    @abstractmethod
    def download(self, path: str, local_path: Path | str) -> None:
        """Copy to a local file, which appears whole; its folder is made."""

    @abstractmethod
    def list(self, prefix: str = "") -> tuple[ObjectInfo, ...]:
        """All objects in folder ``prefix`` and below, by path."""

    @abstractmethod
    def folders(self) -> tuple[str, ...]:
        """Names of the folders directly in here, sorted; what is in them is not looked at."""

    @abstractmethod
    def stat(self, path: str) -> ObjectInfo | None:
        """What is known about one object; None when absent."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove one object; nothing happens when it is absent."""

    @abstractmethod
    def delete_folder(self, path: str) -> None:
        """Remove a folder and all below; nothing happens when it is absent."""

    @abstractmethod
    def check(self, write: bool) -> None:
        """See ``check_store``."""


def open_store(uri: str, s3: S3Spec | None = None, cache: CacheSpec | None = None) -> Store:
    """The store at a plain path, ``file://`` or ``s3://bucket/prefix``; touches nothing yet.

    ``cache``: where ranges of a bucket's objects are kept; a folder needs none.

    Raises StorageAccessError for any other scheme, for a bucket without a name or with credentials, and for a URI with
    a '?' or '#'.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from orchestrator.storage.s3 import S3Store

        if bucket_with_credentials(uri):
            raise StorageAccessError(
                "an s3:// URI (not shown) carries credentials; write s3://bucket/prefix and set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment"
            )
        prefix = parts.path.strip("/")
        if not parts.netloc:
            raise StorageAccessError(f"{uri!r} names no bucket; wanted s3://bucket/prefix")
        if parts.query or parts.fragment or uri.endswith(("?", "#")):
            raise StorageAccessError(f"{uri!r} has a '?' or '#', which no prefix here may have; rename the objects")
        place = f"s3://{parts.netloc}/{prefix}".rstrip("/")
        if cache is None:
            return S3Store(place, s3 or S3Spec())
        from orchestrator.storage.cached_s3 import CachedS3Store
        from orchestrator.storage.range_cache import RangeCache

        return CachedS3Store(place, s3 or S3Spec(), RangeCache(cache.folder, cache.max_bytes))
    if parts.scheme not in ("", "file"):
        raise StorageAccessError(f"{uri!r} is no storage known here; wanted a path, file:///path or s3://bucket/prefix")
    from orchestrator.storage.local import LocalStore

    return LocalStore(str((local_path(uri) if parts.scheme else Path(uri).expanduser()).absolute()))


def open_object(uri: str, s3: S3Spec) -> tuple[Store, str]:
    """The store of the folder that an object lies in, and the object's name there; ``uri`` as for ``open_store``."""
    place = str(local_path(uri)) if uri.startswith("file://") else uri
    folder, _, name = place.rpartition("/")
    return open_store(folder or ("/" if place.startswith("/") else "."), s3), name


def check_store(store: Store, write: bool) -> None:
    """Find out within seconds whether a store opens, and with ``write`` whether it takes an object.

    Raises StorageAccessError that names bucket or folder, endpoint and what to change.
    """
    store.check(write)


def stays_within(path: str) -> bool:
    """Whether a relative path can only mean an object of its own store: no empty part, no ``.``, no ``..``."""
    return "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def checked_path(path: str) -> str:
    """``path`` as it is. Raises StorageAccessError unless it stays within its store."""
    if not stays_within(path):
        raise StorageAccessError(f"{path!r} is no path within a store; wanted names joined by '/', without '..'")
    return path
