"""The concepts that a classifier knows, in the order of its outputs: from a caption to output indices.

A vocabulary is counted in ``labels/concepts.py`` and kept as one Parquet file (``concepts.parquet``): a row per concept
with synset, wnid, offset, lemma names and count; number of captions, threshold and noun table in the file's metadata.

Legend: V concepts of the vocabulary.
"""

import functools
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import DatasetError
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.table import load_noun_table, wnid

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
    """Concepts of the packaged noun table, the most frequent first; where counts are equal, by offset."""

    offsets: tuple[int, ...]
    """[V] synset offsets; the position is the classifier's output."""
    counts: tuple[int, ...]
    """[V] captions that carry the concept."""
    num_captions: int
    """Captions that were read to count."""
    min_count: int
    """Concepts in fewer captions were left out."""

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def _index_of(self) -> dict[int, int]:
        return {offset: index for index, offset in enumerate(self.offsets)}

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hex digits that say whether two vocabularies are the same: concepts, order, counts and noun table."""
        content = (self.offsets, self.counts, self.num_captions, self.min_count, load_noun_table().version)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def index_of(self, offset: int) -> int | None:
        """The output of a synset; None for one outside the vocabulary."""
        return self._index_of.get(offset)

    def labels(self, caption: str) -> list[int]:
        """Outputs that the caption names, ascending; empty where it names none."""
        return self.indices(packaged_finder().find(caption))

    def indices(self, concepts: Iterable[int]) -> list[int]:
        """Outputs of those synsets that the vocabulary holds, ascending."""
        index_of = self._index_of
        return sorted(index_of[offset] for offset in concepts if offset in index_of)

    def names(self) -> list[str]:
        """[V] names of the synsets, such as ``dog.n.01``."""
        table = load_noun_table()
        return [table.name(offset) for offset in self.offsets]

    def to_bytes(self) -> bytes:
        """The vocabulary as a Parquet file."""
        noun_table = load_noun_table()
        columns = {
            "synset": self.names(),
            "wnid": [wnid(offset) for offset in self.offsets],
            "offset": self.offsets,
            "lemma_names": [noun_table.lemma_names(offset) for offset in self.offsets],
            "count": self.counts,
        }
        metadata = {
            "num_captions": str(self.num_captions),
            "min_count": str(self.min_count),
            "noun_table": noun_table.version,
        }
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), sink)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Vocabulary":
        """The vocabulary of ``to_bytes``.

        Raises DatasetError for bytes that are no such file, and for one whose concepts come from another noun table:
        captions are labelled with the packaged one.
        """
        try:
            rows = pq.read_table(io.BytesIO(data))
            if not rows.schema.equals(_SCHEMA) or not rows.num_rows:
                raise ValueError(f"columns {rows.schema.names} with {rows.num_rows} rows")
            metadata = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
            vocabulary = cls(
                offsets=tuple(rows["offset"].to_pylist()),
                counts=tuple(rows["count"].to_pylist()),
                num_captions=int(metadata["num_captions"]),
                min_count=int(metadata["min_count"]),
            )
            written_with = metadata["noun_table"]
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DatasetError(
                f"not a concept vocabulary ({error}); expected a concepts.parquet that this package wrote: "
                "change objective.vocabulary, or leave it out to count one on the training captions"
            ) from error
        if written_with != load_noun_table().version:
            raise DatasetError(
                f"the concept vocabulary was made with noun table {written_with}, this package labels with "
                f"{load_noun_table().version}: leave objective.vocabulary out to count one again"
            )
        return vocabulary
