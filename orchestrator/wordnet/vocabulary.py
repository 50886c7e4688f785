"""The concepts that a classifier knows, in the order of its outputs: from a caption to output indices.

A vocabulary is counted in ``labels/concepts.py`` and kept as one Parquet file (``concepts.parquet``): a row per concept
with synset, wnid, offset, lemma names and count; number of captions, threshold, finder, the data that was counted and
its coverage in the file's metadata.

Legend: V concepts of the vocabulary.
"""

import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import DatasetError
from orchestrator.wordnet.table import NounTable, wnid

_VERSION = "2"
_SCHEMA = pa.schema(
    [
        ("synset", pa.string()),
        ("wnid", pa.string()),
        ("offset", pa.int32()),
        ("lemma_names", pa.list_(pa.string())),
        ("count", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Vocabulary:
    """Concepts, the most frequent first; where counts are equal, by offset."""

    offsets: tuple[int, ...]
    """[V] synset offsets; the position is the classifier's output."""
    counts: tuple[int, ...]
    """[V] captions that carry the concept."""
    num_captions: int
    """Captions that were read to count."""
    min_count: int
    """Concepts in fewer captions were left out."""
    finder: str
    """Version of the finder that counted; another one would give a caption other labels."""
    data: tuple[str, ...] = ()
    """Digests of the data sets that were counted."""

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def index_of(self) -> Mapping[int, int]:
        """The output of each synset."""
        return {offset: index for index, offset in enumerate(self.offsets)}

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hex digits that say whether two vocabularies are the same: concepts, counts, finder and data."""
        content = (self.offsets, self.counts, self.num_captions, self.min_count, self.finder, self.data)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def indices(self, concepts: Iterable[int]) -> list[int]:
        """Outputs of those synsets that the vocabulary holds, ascending."""
        index_of = self.index_of
        return sorted(index_of[offset] for offset in concepts if offset in index_of)

    def to_bytes(self, table: NounTable, coverage: Mapping[str, Any] | None = None) -> bytes:
        """The vocabulary as a Parquet file; ``table`` names its concepts."""
        columns = {
            "synset": [table.name(offset) for offset in self.offsets],
            "wnid": [wnid(offset) for offset in self.offsets],
            "offset": self.offsets,
            "lemma_names": [table.lemma_names(offset) for offset in self.offsets],
            "count": self.counts,
        }
        metadata = {
            "version": _VERSION,
            "num_captions": str(self.num_captions),
            "min_count": str(self.min_count),
            "finder": self.finder,
            "data": json.dumps(self.data),
            "coverage": json.dumps(coverage),
        }
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), sink)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Vocabulary":
        """The vocabulary of ``to_bytes``. Raises DatasetError for bytes that are no such file."""
        try:
            rows = pq.read_table(io.BytesIO(data))
            if not rows.schema.equals(_SCHEMA) or not rows.num_rows:
                raise ValueError(f"columns {rows.schema.names} with {rows.num_rows} rows")
            metadata = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
            if metadata["version"] != _VERSION:
                raise ValueError(f"version {metadata['version']} instead of {_VERSION}")
            return cls(
                offsets=tuple(rows["offset"].to_pylist()),
                counts=tuple(rows["count"].to_pylist()),
                num_captions=int(metadata["num_captions"]),
                min_count=int(metadata["min_count"]),
                finder=metadata["finder"],
                data=tuple(json.loads(metadata["data"])),
            )
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DatasetError(
                f"not a concept vocabulary of this version ({error}); expected a concepts.parquet that this package "
                "wrote: change objective.vocabulary, or leave it out to count one on the training captions"
            ) from error


def read_coverage(data: bytes) -> dict[str, Any] | None:
    """The coverage that was written with a vocabulary; None where it was not measured."""
    coverage: dict[str, Any] | None = json.loads(pq.read_schema(io.BytesIO(data)).metadata[b"coverage"])
    return coverage
