"""Concepts of captions, found ahead of training and kept beside the shards as an annotation, one file for each shard.

A file holds synset offsets, of each caption field a column: labels follow from any vocabulary of the same finder, and
a caption is labelled by its own field, whichever is drawn. No row is left out, null stands where there is no caption.

A row is its sample's by position and key. Keys are compared wherever a sample is read; where columns of a whole shard
are read without its samples, the shard's keys are read as well, unless its version says that nothing moved.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.columns import NO_CONCEPT
from orchestrator.data.annotation_header import INDEX, KEY, AnnotationHeader, ShardVersion
from orchestrator.data.annotations import read_annotation, read_annotation_chunk, write_annotation
from orchestrator.data.captions import read_captions
from orchestrator.data.concepts import COMMAND, StoredConcepts, caption_column, open_finder
from orchestrator.data.metadata import key_array, key_bytes
from orchestrator.data.node_index import ShardsSource, open_index
from orchestrator.data.predicate import Mask
from orchestrator.data.readers import read_shard
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import ShardRow
from orchestrator.data.webdataset import read_keys
from orchestrator.errors import AnnotationError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts
from orchestrator.storage.store import Store
from orchestrator.wordnet.captions import MAX_CAPTION_CHARACTERS
from orchestrator.wordnet.finder import Finder
from orchestrator.wordnet.vocabulary import Vocabulary

_LISTS = pa.list_(pa.int32())


@dataclass(frozen=True)
class ShardConcepts:
    """The concepts of all captions of a shard."""

    columns: tuple[pa.ChunkedArray, ...]
    """[caption fields], of each a list of synset offsets a sample, null where it has no such caption."""
    num_undecodable: int = 0
    """Captions that are not UTF-8; not known of stored ones."""
    num_cut: int = 0
    """Captions of which only ``MAX_CAPTION_CHARACTERS`` were read; not known of stored ones."""
    was_stored: bool = False


@dataclass(frozen=True)
class ConceptReader:
    """Concepts of the shards of some data sets, from beside them or from their captions. Picklable."""

    sources: tuple[ShardsSource, ...]
    fields: tuple[str, ...]
    finder: FinderFacts
    s3: S3Spec
    keeps: bool
    """Whether concepts that are found are kept beside their shard."""

    def read(self, dataset: int, shard: int) -> ShardConcepts:
        """Of one shard: those that are stored, if they are of this finder and this version of the shard.

        Raises:
            ShardReadError, ShardDamagedError: the shard does not give what its index promises.
            StorageAccessError: the folder takes no files.
        """
        source = self.sources[dataset]
        store, row = source.store, open_index(source).shards[shard]
        finder = open_finder(self.finder, self.s3)
        stored = StoredConcepts.by(finder, self.finder.mode, self.fields)
        if self.keeps:
            try:
                return ShardConcepts(read_concepts(store, row, stored), was_stored=True)
            except AnnotationError:
                pass  # none yet, of another finder, or of another version of the shard: found anew
        return self._find(store, row, stored, finder)

    def _find(self, store: Store, shard: ShardRow, stored: StoredConcepts, finder: Finder) -> ShardConcepts:
        keys: list[str] = []
        found: list[list[list[int] | None]] = [[] for _ in self.fields]
        num_undecodable = num_cut = 0
        for sample in read_shard(store, shard, self.fields):
            captions, undecodable = read_captions(sample, self.fields)
            num_undecodable += undecodable
            num_cut += sum(len(caption) > MAX_CAPTION_CHARACTERS for caption in captions.values())
            keys.append(sample.key)
            for field, rows in zip(self.fields, found, strict=True):
                rows.append(finder.find(captions[field]) if field in captions else None)
        columns = tuple(pa.chunked_array([pa.array(rows, _LISTS)]) for rows in found)
        if self.keeps:
            index = pa.array(range(len(keys)), pa.int32())
            table = pa.table([index, key_array(keys), *columns], names=[INDEX, KEY, *stored.column_names])
            write_annotation(store, shard, stored.annotation, table)
        return ShardConcepts(columns, num_undecodable, num_cut)


@dataclass(frozen=True)
class ChunkConcepts:
    """What is stored of a chunk."""

    fields: tuple[str, ...]
    table: pa.Table
    """A row for each sample: its key, and a column for each caption field, of lists of synset offsets."""
    first: int
    """Index of the chunk's first sample."""
    where: str

    def of(self, sample: RawSample, field: str) -> list[int]:
        """Of one caption. Raises AnnotationError for another sample's row, or where none was there when it was made."""
        row = sample.index - self.first
        _check_key(self.table[KEY][row].as_py(), key_bytes(sample.key), sample.index, self.where)
        concepts: list[int] | None = self.table[caption_column(self.fields.index(field))][row].as_py()
        if concepts is None:
            raise AnnotationError(
                f"{self.where}: {sample.key} had no caption in '{field}'; make it again with '{COMMAND}'"
            )
        return concepts


@dataclass(frozen=True)
class HasLabel:
    """A rule of a selection: a sample stays if one of the captions that can be drawn for it has a label."""

    vocabulary: Vocabulary
    stored: StoredConcepts
    reason: str = NO_CONCEPT

    @property
    def digest(self) -> str:
        """Of vocabulary and captions."""
        return f"{self.vocabulary.digest} {self.stored.annotation.digest}"

    def keeps(self, store: Store, shard: ShardRow) -> Mask:
        """[samples] which ones stay; raises as ``read_concepts``."""
        stays = np.zeros(shard.num_samples, bool)
        known = np.sort(self.vocabulary.offsets)
        for column in read_concepts(store, shard, self.stored):
            parents, concepts = pc.list_parent_indices(column), pc.list_flatten(column)
            stays[parents.to_numpy()[np.isin(concepts.to_numpy(), known)]] = True
        return stays


def read_chunk_concepts(store: Store, shard: ShardRow, chunk: int, stored: StoredConcepts) -> ChunkConcepts:
    """What is stored of a chunk; raises AnnotationError as ``read_concepts``."""
    annotation, names = stored.annotation, stored.column_names
    found = read_annotation_chunk(store, annotation.name, shard, chunk, names)
    first, stop = shard.chunk_range(chunk)
    where = _where(store, shard, stored)
    header, table = _checked(found, stored, stop - first, where)
    if not _has_keys(shard):
        _check_version(header, store, shard, where)
    return ChunkConcepts(stored.fields, table, first, where)


def read_concepts(store: Store, shard: ShardRow, stored: StoredConcepts) -> tuple[pa.ChunkedArray, ...]:
    """What is stored of a shard, a column for each caption field, a row for each sample.

    Raises:
        AnnotationError: nothing stored, made by another finder, for other fields, another version of the shard or
            samples in another order.
        ShardReadError, ShardDamagedError: the shard's keys had to be read, and it does not give them.
    """
    where = _where(store, shard, stored)
    found = read_annotation(store, stored.annotation.name, shard, stored.column_names)
    header, table = _checked(found, stored, shard.num_samples, where)
    if not _has_keys(shard):
        _check_version(header, store, shard, where)
    elif not header.shard.is_known_to_be(ShardVersion.of(shard, store.uri)):
        for index, (stored_key, key) in enumerate(zip(table[KEY].to_pylist(), read_keys(store, shard), strict=True)):
            _check_key(stored_key, key_bytes(key), index, where)
    return tuple(table[name] for name in stored.column_names)


def _where(store: Store, shard: ShardRow, stored: StoredConcepts) -> str:
    return f"annotation '{stored.annotation.name}' of {store.uri}/{shard.path}"


def _checked(
    found: tuple[AnnotationHeader, pa.Table] | None, stored: StoredConcepts, num_samples: int, where: str
) -> tuple[AnnotationHeader, pa.Table]:
    if found is None:
        raise AnnotationError(f"{where} is absent; make it with '{COMMAND}', or set labels: stream in the objective")
    header, table = found
    if header.annotation.digest != stored.annotation.digest:
        raise AnnotationError(
            f"{where} was made by '{header.annotation.maker.version}' of {len(header.annotation.columns)} caption "
            f"fields, the job labels with '{stored.annotation.maker.version}' and {len(stored.fields)} (another mode, "
            f"noun_table, tagger or caption_fields); make it again with '{COMMAND}'"
        )
    if table.num_rows != num_samples:
        raise AnnotationError(
            f"{where} has {table.num_rows:,} rows for {num_samples:,} samples; make it again with '{COMMAND}'"
        )
    return header, table


def _check_key(stored_key: bytes, key: bytes, index: int, where: str) -> None:
    if stored_key != key:
        raise AnnotationError(
            f"{where}: sample {index} has key {key.decode(errors='replace')!r}, its labels are those of "
            f"{stored_key.decode(errors='replace')!r}: the shard was written in another order; make it again with "
            f"'{COMMAND}'"
        )


def _has_keys(shard: ShardRow) -> bool:
    """Rows of Parquet are called by their position alone: no order shows in their keys."""
    return not shard.path.endswith(".parquet")


def _check_version(header: AnnotationHeader, store: Store, shard: ShardRow, where: str) -> None:
    if not header.shard.is_known_to_be(ShardVersion.of(shard, store.uri)):
        raise AnnotationError(
            f"{where} was made for the shard at {header.shard.uri}, and nothing says that the rows here are in the "
            f"same order; make it again with '{COMMAND}', or run 'orchestrator data verify --fix-index' on both before "
            f"labels are made"
        )
