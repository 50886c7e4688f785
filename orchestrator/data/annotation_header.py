"""What an annotation is and what each of its files says of itself: columns, maker, and the shard it was made for.

The header is JSON in the metadata of the file's Arrow schema. ``annotations.py`` writes and reads the files.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from orchestrator.columns import DENSE_KINDS, AnnotationKind
from orchestrator.data.shard import ShardRow
from orchestrator.errors import AnnotationError

INDEX, KEY = "index", "key"
"""Columns of every file: a sample's position within its shard (int32), and its key (``metadata.key_array``)."""

_VERSION = 1
_METADATA = b"annotation"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RESERVED = (INDEX, KEY, "present")
_LEAST_SCALE = 1e-6
MOST_LEVELS = 65_504
"""Grey levels of depth: 16 bits, and finite as float16 at every scale."""


@dataclass(frozen=True)
class AnnotationColumn:
    """One value of a sample.

    Args:
        kind: what a value is, and how it is stored (``arrow_types``).
        width: embedding: numbers of each vector; labels: the most that a sample may have; else 1.
        scale: depth: what one grey level is worth, in the maker's unit.
    """

    name: str
    kind: AnnotationKind
    width: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise AnnotationError(
                f"annotation column {self.name!r}: wanted small letters, digits, - and _, and none of "
                f"{', '.join(_RESERVED)}"
            )
        if not _LEAST_SCALE <= self.scale <= 1:
            raise AnnotationError(
                f"annotation column {self.name!r}: scale {self.scale:g}; wanted {_LEAST_SCALE:g} to 1, so that depth "
                f"keeps its digits as float16"
            )

    @property
    def is_dense(self) -> bool:
        """Whether a value is an image that follows the sample's own through crop, resize and flip."""
        return self.kind in DENSE_KINDS

    @property
    def arrow_types(self) -> tuple[pa.DataType, ...]:
        """How values may be stored; images as PNG: depth 16-bit grey (0: none), normals 8-bit RGB (-1 to 1 as 0 to
        255, grey: none), mask 8-bit grey (labels)."""
        match self.kind:
            case "number":
                return (pa.float32(),)
            case "labels":
                return (pa.list_(pa.int32()),)
            case "embedding":
                return (pa.list_(pa.float16(), self.width), pa.list_(pa.float32(), self.width))
            case _:
                return (pa.binary(),)


@dataclass(frozen=True)
class Maker:
    """What computed an annotation.

    Args:
        settings: digest of everything beside name and version that decides about the values.
        command: what makes it again, as a user types it.
    """

    name: str
    version: str
    settings: str
    command: str


@dataclass(frozen=True)
class Annotation:
    """An annotation of a data set: the same columns from the same maker in all of its files.

    Args:
        name: of its folder, ``_orchestrator/<name>``.
    """

    name: str
    columns: tuple[AnnotationColumn, ...]
    maker: Maker

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of columns and maker, its command and the folder's name aside."""
        maker = (self.maker.name, self.maker.version, self.maker.settings)
        content = json.dumps([[asdict(column) for column in self.columns], maker])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class ShardVersion:
    """The shard that a file was made for, as its index row had it.

    Args:
        uri: the store in which ``etag`` has a meaning; a copy of the data set is told by the rest.
    """

    path: str
    size_bytes: int
    num_samples: int
    uri: str
    etag: str
    sha256: str

    @classmethod
    def of(cls, shard: ShardRow, uri: str) -> "ShardVersion":
        """A shard of the data set at ``uri``."""
        return cls(shard.path, shard.size_bytes, shard.num_samples, uri, shard.etag, shard.sha256)

    def difference(self, other: "ShardVersion") -> str | None:
        """The first thing that tells two versions apart; what only one of them knows does not."""
        for name, unit in (("path", ""), ("num_samples", " samples"), ("size_bytes", " bytes")):
            if getattr(self, name) != getattr(other, name):
                return f"{getattr(self, name)}{unit} instead of {getattr(other, name)}{unit}"
        if self.sha256 and other.sha256 and self.sha256 != other.sha256:
            return f"SHA-256 {self.sha256[:16]} instead of {other.sha256[:16]}"
        if self.uri == other.uri and self.etag and other.etag and self.etag != other.etag:
            return f"version {self.etag} instead of {other.etag}"
        return None

    def is_known_to_be(self, other: "ShardVersion") -> bool:
        """Whether what both know of their content says that it is one: then every sample is in its place."""
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.uri == other.uri and self.etag != "" and self.etag == other.etag


@dataclass(frozen=True)
class AnnotationHeader:
    """What a file says of itself."""

    annotation: Annotation
    shard: ShardVersion

    def to_metadata(self) -> dict[bytes, bytes]:
        """Metadata of an Arrow schema."""
        content = {"version": _VERSION, **asdict(self.annotation), "shard": asdict(self.shard)}
        return {_METADATA: json.dumps(content).encode()}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> "AnnotationHeader":
        """The opposite. Raises KeyError, ValueError or TypeError when there is none of this version."""
        content: dict[str, Any] = json.loads((metadata or {})[_METADATA])
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']} instead of {_VERSION}")
        columns = tuple(AnnotationColumn(**column) for column in content["columns"])
        annotation = Annotation(content["name"], columns, Maker(**content["maker"]))
        return cls(annotation, ShardVersion(**content["shard"]))


def check_name(name: str) -> str:
    """``name`` as it is. Raises AnnotationError unless it can be a folder of annotations."""
    if not _NAME.fullmatch(name) or name == "selections":
        raise AnnotationError(
            f"annotation {name!r}: wanted a name of small letters, digits, - and _, other than 'selections'"
        )
    return name
