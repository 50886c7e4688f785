"""Commit markers: a folder of uploaded files counts only once ``COMPLETE.json`` lies in it.

The marker is written last and names every file with size and checksum. Reading it compares sizes; checksums are
compared when files are fetched.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import CheckpointError
from orchestrator.storage.store import ObjectNotFoundError, Store, stays_within

MARKER = "COMPLETE.json"
MAX_MARKER_BYTES = 64 * 2**20
_VERSION = 1


@dataclass(frozen=True)
class MarkedFile:
    """A file of a complete folder; ``path`` is relative to the folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Marker:
    """What the marker of a folder says: its files, or why the folder does not count."""

    folder: str
    files: tuple[MarkedFile, ...] = ()
    fault: str | None = None


def upload_files(store: Store, folder: str, local_folder: Path | str) -> list[MarkedFile]:
    """Copy all files below ``local_folder`` into ``folder``; the answer is what ``write_marker`` wants."""
    root = Path(local_folder)
    files = []
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        path = file.relative_to(root).as_posix()
        store.upload(file, f"{folder}/{path}")
        files.append(MarkedFile(path, file.stat().st_size, _sha256(file)))
    return files


def write_marker(store: Store, folder: str, files: Iterable[MarkedFile]) -> None:
    """Declare ``folder`` complete; call after every upload into it has returned."""
    listed = [asdict(file) for file in sorted(files, key=lambda file: file.path)]
    store.write_bytes(f"{folder}/{MARKER}", json.dumps({"version": _VERSION, "files": listed}).encode())


def read_marker(store: Store, folder: str) -> Marker:
    """The files of a complete folder, each present with its size; else a ``fault`` that says what is wrong."""
    try:
        if (info := store.stat(f"{folder}/{MARKER}")) is None:
            return Marker(folder, fault=f"{MARKER} is missing: its upload did not end")
        if info.size_bytes > MAX_MARKER_BYTES:
            return Marker(folder, fault=f"{MARKER} has {info.size_bytes:,} bytes; at most {MAX_MARKER_BYTES:,}")
        files = _parse(store.read_bytes(f"{folder}/{MARKER}"))
    except ObjectNotFoundError:
        return Marker(folder, fault=f"{MARKER} was removed while it was read")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Marker(folder, fault=f"{MARKER} is not readable: {error!r}")
    present = {info.path.removeprefix(f"{folder}/"): info.size_bytes for info in store.list(folder)}
    for file in files:
        if (size := present.get(file.path)) != file.size_bytes:
            found = "is missing" if size is None else f"has {size:,} bytes"
            return Marker(folder, fault=f"{file.path} {found}; {MARKER} says {file.size_bytes:,} bytes")
    return Marker(folder, files)


def download_file(store: Store, folder: str, file: MarkedFile, local_path: Path) -> None:
    """Fetch one marked file. Raises CheckpointError when its checksum differs from the marker's."""
    store.download(f"{folder}/{file.path}", local_path)
    if (found := _sha256(local_path)) != file.sha256:
        local_path.unlink()
        raise CheckpointError(
            f"{store.uri}/{folder}/{file.path} is damaged: sha256 {found[:12]}..., {MARKER} says {file.sha256[:12]}..."
        )


def delete_marked(store: Store, folder: str) -> None:
    """Remove a folder, its marker first: what is half removed must not count."""
    store.delete(f"{folder}/{MARKER}")
    store.delete_folder(folder)


def _parse(data: bytes) -> tuple[MarkedFile, ...]:
    content = json.loads(data)
    if content["version"] != _VERSION:
        raise ValueError(f"version {content['version']!r}, wanted {_VERSION}")
    files = tuple(MarkedFile(str(f["path"]), int(f["size_bytes"]), str(f["sha256"])) for f in content["files"])
    for file in files:
        if not stays_within(file.path):  # it becomes a local path when fetched
            raise ValueError(f"{file.path!r} leaves the folder")
    return files


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
