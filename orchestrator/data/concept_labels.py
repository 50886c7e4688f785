"""Concepts of captions, found ahead of training and kept beside the shards as an annotation, one file for each shard.

A file holds synset offsets, of each caption field a column: labels follow from any vocabulary of the same finder, and
a caption is labelled by its own field, whichever is drawn. No row is left out, null stands where there is no caption.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.data.annotation_header import INDEX, KEY, Annotation, AnnotationColumn, Maker
from orchestrator.data.annotations import read_annotation, write_annotation
from orchestrator.data.captions import read_captions
from orchestrator.data.concepts import open_finder
from orchestrator.data.index import open_index
from orchestrator.data.metadata import key_array
from orchestrator.data.readers import read_shard
from orchestrator.data.shard import ShardRow
from orchestrator.errors import AnnotationError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import FinderFacts
from orchestrator.storage.store import Store
from orchestrator.wordnet.captions import MAX_CAPTION_CHARACTERS
from orchestrator.wordnet.finder import Finder

COMMAND = "orchestrator label concepts JOB.yaml"
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

    stores: tuple[Store, ...]
    digests: tuple[str, ...]
    """Of the indexes."""
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
        store = self.stores[dataset]
        row = open_index(store, self.digests[dataset]).shards[shard]
        finder = open_finder(self.finder, self.s3)
        annotation = concept_annotation(self.finder.mode, finder.version, self.fields)
        if self.keeps:
            try:
                return ShardConcepts(read_concepts(store, row, annotation), was_stored=True)
            except AnnotationError:
                pass  # none yet, of another finder, or of another version of the shard: found anew
        return self._find(store, row, annotation, finder)

    def _find(self, store: Store, shard: ShardRow, annotation: Annotation, finder: Finder) -> ShardConcepts:
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
            names = [column.name for column in annotation.columns]
            table = pa.table([index, key_array(keys), *columns], names=[INDEX, KEY, *names])
            write_annotation(store, shard, annotation, table)
        return ShardConcepts(columns, num_undecodable, num_cut)


def concept_annotation(mode: str, finder_version: str, fields: Sequence[str]) -> Annotation:
    """The annotation that holds the concepts of some caption fields."""
    columns = tuple(
        AnnotationColumn(f"caption-{number}", "labels", width=MAX_CAPTION_CHARACTERS) for number in range(len(fields))
    )
    settings = hashlib.sha256(json.dumps(list(fields)).encode()).hexdigest()
    return Annotation(f"concepts-{mode}", columns, Maker("concepts", finder_version, settings, COMMAND))


def read_concepts(store: Store, shard: ShardRow, annotation: Annotation) -> tuple[pa.ChunkedArray, ...]:
    """What is stored of a shard, a column for each caption field, a row for each sample.

    Raises AnnotationError: nothing stored, made by another finder, for other fields or another version of the shard.
    """
    names = tuple(column.name for column in annotation.columns)
    found = read_annotation(store, annotation.name, shard, names)
    where = f"annotation '{annotation.name}' of {store.uri}/{shard.path}"
    if found is None:
        raise AnnotationError(f"{where} is absent; make it with '{COMMAND}', or set labels: stream in the objective")
    header, table = found
    if header.annotation.digest != annotation.digest:
        raise AnnotationError(
            f"{where} was made by '{header.annotation.maker.version}' of {len(header.annotation.columns)} caption "
            f"fields, the job labels with '{annotation.maker.version}' and {len(names)} (another mode, noun_table, "
            f"tagger or caption_fields); make it again with '{COMMAND}'"
        )
    if table.num_rows != shard.num_samples:
        raise AnnotationError(
            f"{where} has {table.num_rows:,} rows for {shard.num_samples:,} samples; make it again with '{COMMAND}'"
        )
    return tuple(table[name] for name in names)
