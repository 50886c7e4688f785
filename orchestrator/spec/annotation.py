"""Annotations as an objective asks for them, as a data set has them, and as a plan reads them.

Their files are ``data/annotations.py``; the kinds of column and their form in a batch, ``columns.py``.
"""

from typing import Literal

from orchestrator.columns import AnnotationKind
from orchestrator.spec.section import Section

_BYTES = {"number": 4, "labels": 4, "embedding": 4}  # of one number in a batch
_PIXEL_BYTES = {"depth": 2, "normals": 3, "mask": 1}

Missing = Literal["keep", "skip"]


class AnnotationNeed(Section):
    """What an objective reads beside images and captions."""

    name: str
    """Its own word for the annotation; the folder's name unless ``data.annotations`` of the job says otherwise."""
    columns: dict[str, AnnotationKind]
    """Columns that it reads, and what they must be."""
    missing: Missing
    """``keep``: a sample without it is trained on, and the loss leaves the annotation's part out; ``skip``: it counts
    as a bad sample. Both are counted."""


class AnnotationColumnFacts(Section):
    """A column of an annotation."""

    kind: AnnotationKind
    width: int = 1
    """Numbers of an embedding; most labels of a sample; else 1."""

    def row_bytes(self, image_size: int) -> int:
        """Of one row in a batch."""
        if self.kind in _PIXEL_BYTES:
            return _PIXEL_BYTES[self.kind] * image_size**2
        return _BYTES[self.kind] * self.width


class AnnotationFacts(Section):
    """An annotation that lies beside the shards of a data set."""

    digest: str
    """Of its columns and what made it."""
    columns: dict[str, AnnotationColumnFacts]
    num_shards: int
    """Shards that have it."""


class AnnotationPlan(Section):
    """An annotation that is joined to the samples of all sources."""

    name: str
    folder: str
    """Below ``_orchestrator`` beside the shards."""
    columns: dict[str, AnnotationColumnFacts]
    missing: Missing
    digests: tuple[str, ...]
    """Of each source: files of another digest are refused."""
    heldout: str | None = None
    """The same of the held-out shards."""

    def row_bytes(self, image_size: int) -> int:
        """Of one row in a batch, its presence included."""
        return 1 + sum(column.row_bytes(image_size) for column in self.columns.values())
