"""Annotations: what is known of samples beside their shards, one Parquet file for each shard.

``_orchestrator/<annotation>/<shard's path without its ending>.parquet`` has a row for every sample that has the
annotation, by rising ``index``, and a row group for every chunk that has such samples: a read task takes the rows of
the chunk that it decodes, and no shuffle joins them. A file whose header names another version of its shard is
refused, and so is a row whose key is not its sample's.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.annotation_header import INDEX, KEY, Annotation, AnnotationHeader, ShardVersion, check_name
from orchestrator.data.index import ADDED_FOLDER
from orchestrator.data.parquet import read_file
from orchestrator.data.retry import retried
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.errors import AnnotationError
from orchestrator.storage.store import ObjectNotFoundError, Store

_ALL_CHUNKS = -1


def annotation_path(name: str, shard_path: str) -> str:
    """Where the annotation of a shard lies, below the data set's folder. Raises AnnotationError for no usable name."""
    return f"{ADDED_FOLDER}/{check_name(name)}/{shard_path.rpartition('.')[0]}.parquet"


def write_annotation(store: Store, shard: ShardRow, annotation: Annotation, table: pa.Table) -> None:
    """Write the annotation of one shard; it appears whole.

    Args:
        store: of the data set.
        shard: row of its index, as it was when the samples were read.
        table: ``index`` (int32), ``key`` (``metadata.key_array``) and the annotation's columns (as ``arrow_types``
            says); a sample without a row, or with a null in one, lacks it.

    Raises:
        AnnotationError: the table is not of that form, or not of that shard.
    """
    path = annotation_path(annotation.name, shard.path)
    store.write_bytes(path, encode_annotation(ShardVersion.of(shard, store.uri), annotation, table))


def encode_annotation(shard: ShardVersion, annotation: Annotation, table: pa.Table) -> bytes:
    """The content of a shard's file; arguments and errors as of ``write_annotation``."""
    _check_table(shard, annotation, table)
    fields = [(INDEX, pa.int32()), (KEY, pa.binary())]
    fields += [(column.name, table.schema.field(column.name).type) for column in annotation.columns]
    schema = pa.schema(fields, AnnotationHeader(annotation, shard).to_metadata())
    table = table.select(schema.names).cast(schema)
    chunks = table[INDEX].to_numpy() // CHUNK_SAMPLES
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for chunk in range(int(chunks[-1]) + 1 if len(chunks) else 0):
            start, stop = (int(number) for number in chunks.searchsorted([chunk, chunk + 1]))
            if stop > start:
                writer.write_table(table.slice(start, stop - start), row_group_size=CHUNK_SAMPLES)
    return sink.getvalue().to_pybytes()


def read_annotation_header(store: Store, name: str, shard: ShardRow) -> AnnotationHeader | None:
    """What a shard's annotation says of itself; None where the shard has none.

    Raises:
        AnnotationError: it is damaged, or was made for another version of the shard.
        ShardReadError: reading failed after its retries.
    """
    found = _read(store, name, shard, None)
    return None if found is None else found[0]


def read_annotation_chunk(
    store: Store, name: str, shard: ShardRow, chunk: int, columns: tuple[str, ...]
) -> tuple[AnnotationHeader, pa.Table] | None:
    """The header, and the rows of one chunk: ``index``, ``key`` and ``columns``; raises as ``read_annotation_header``.

    None where the shard has no annotation.
    """
    return _read(store, name, shard, chunk, columns)


def read_annotation(
    store: Store, name: str, shard: ShardRow, columns: tuple[str, ...]
) -> tuple[AnnotationHeader, pa.Table] | None:
    """The header, and the rows of the whole shard, as ``read_annotation_chunk`` gives those of a chunk."""
    return _read(store, name, shard, _ALL_CHUNKS, columns)


def _read(
    store: Store, name: str, shard: ShardRow, chunk: int | None, columns: tuple[str, ...] = ()
) -> tuple[AnnotationHeader, pa.Table] | None:
    path = annotation_path(name, shard.path)
    where = f"annotation {store.uri}/{path}"

    def read(file: pq.ParquetFile) -> tuple[AnnotationHeader, pa.Table]:
        header = AnnotationHeader.from_metadata(file.schema_arrow.metadata)
        if chunk is None:
            return header, None
        told = {INDEX, KEY, *(column.name for column in header.annotation.columns)}
        if absent := {INDEX, KEY, *columns} - told.intersection(file.schema_arrow.names):
            raise KeyError(f"no column {', '.join(sorted(absent))}")
        groups = [
            group for group in range(file.metadata.num_row_groups) if chunk in (_ALL_CHUNKS, _chunk_of(file, group))
        ]
        return header, file.read_row_groups(groups, columns=[INDEX, KEY, *columns])

    try:
        header, table = retried(lambda: read_file(store, path, read))
    except ObjectNotFoundError:
        return None
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise AnnotationError(
            f"{where} is not an annotation of this version ({error}); remove it and make it again"
        ) from error
    difference = header.shard.difference(ShardVersion.of(shard, store.uri))
    if difference is not None:
        raise AnnotationError(
            f"{where} was made for another version of {shard.path}: {difference}; make it again with "
            f"'{header.annotation.maker.command}', after 'orchestrator data index {store.uri}' if the shard is right"
        )
    return header, table


def _chunk_of(file: pq.ParquetFile, group: int) -> int:
    """By the statistics of its first column: nothing but a row group's own rows says whose they are."""
    statistics = file.metadata.row_group(group).column(0).statistics
    if statistics is None:
        raise ValueError(f"row group {group} does not say whose it is")
    least: int = statistics.min
    return least // CHUNK_SAMPLES


def _check_table(shard: ShardVersion, annotation: Annotation, table: pa.Table) -> None:
    where = f"annotation '{annotation.name}' of {shard.uri}/{shard.path}"
    for name in (INDEX, KEY, *(column.name for column in annotation.columns)):
        if name not in table.column_names:
            raise AnnotationError(f"{where}: column '{name}' is absent; there are: {', '.join(table.column_names)}")
    for column in annotation.columns:
        found = table.schema.field(column.name).type
        if found not in column.arrow_types:
            wanted = " or ".join(map(str, column.arrow_types))
            raise AnnotationError(f"{where}: column '{column.name}' is {found}; {column.kind} wants {wanted}")
        if column.kind == "labels" and (pc.max(pc.list_value_length(table[column.name])).as_py() or 0) > column.width:
            raise AnnotationError(f"{where}: a sample has more than {column.width} labels in '{column.name}'")
    if table[INDEX].null_count or table[KEY].null_count:
        raise AnnotationError(f"{where}: a row without {INDEX} or {KEY}")
    index = table[INDEX].to_numpy()
    if len(index) and (index[0] < 0 or index[-1] >= shard.num_samples or (index[1:] <= index[:-1]).any()):
        raise AnnotationError(f"{where}: '{INDEX}' must rise from row to row, within the shard's {shard.num_samples}")
