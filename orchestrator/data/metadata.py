"""What is known of a shard's samples besides their content: keys and metadata columns, in the order of the samples.

Parquet shards carry both as columns. A tar shard's keys are its file names; its metadata is the table that
img2dataset lays beside it (``00000.parquet`` for ``00000.tar``, a row for every sample that was tried), joined by key
because nothing promises its order; where there is no such table, the samples' own .json tells, at the cost of reading
the whole shard.
"""

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.parquet import read_columns, read_footer
from orchestrator.data.shard import ShardRow
from orchestrator.data.webdataset import read_keys, read_tar_chunk
from orchestrator.errors import DatasetError, ShardDamagedError
from orchestrator.spec.selection import SHARD_KEY
from orchestrator.storage.store import Store

logger = logging.getLogger(__name__)

STATUS = "status"
SUCCESS = "success"
"""The status of rows that became samples."""

_JSON = "json"
_ADVICE = "correct list_by or where under the job's select, or a command's --list-by"


def sidecar_path(shard: ShardRow) -> str:
    """Where the table of a tar shard lies, if it has one."""
    return f"{shard.path.removesuffix('.tar')}.parquet"


def read_metadata(store: Store, shard: ShardRow, names: Collection[str], has_sidecar: bool) -> dict[str, pa.Array]:
    """Columns ``names`` of a shard with samples, one value a sample; null where a sample has none.

    Args:
        names: metadata columns; for a tar, ``key`` is the samples' key.
        has_sidecar: whether a table lies beside the tar.

    Raises:
        DatasetError: a column that is not there, a table that lacks a sample.
        ShardReadError: reading failed after its retries.
        ShardDamagedError: the shard is not what its index says.
    """
    if shard.path.endswith(".parquet"):
        return _read_rows(store, shard, names)
    wanted = [name for name in names if name != SHARD_KEY]
    if not wanted:
        return {SHARD_KEY: key_array(read_keys(store, shard))}
    return _read_sidecar(store, shard, wanted) if has_sidecar else _read_members(store, shard, wanted)


def as_text(column: pa.Array) -> pa.Array | None:
    """A column of text as UTF-8 bytes (Arrow's ``binary``); None for a column of anything else."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind)):
        return None
    return column.cast(pa.binary())


def _read_rows(store: Store, shard: ShardRow, names: Collection[str]) -> dict[str, pa.Array]:
    table = _read_columns(store, shard.path, names)
    if table.num_rows != shard.num_samples:
        raise ShardDamagedError(
            f"shard {store.uri}/{shard.path}: {table.num_rows} rows found, its index says {shard.num_samples}; "
            f"run 'orchestrator data index {store.uri}'"
        )
    return {name: table[name].combine_chunks() for name in names}


def _read_sidecar(store: Store, shard: ShardRow, names: Collection[str]) -> dict[str, pa.Array]:
    """Rows of the table beside a tar, one for each of its samples."""
    path = sidecar_path(shard)
    table = _read_columns(store, path, [SHARD_KEY, *names], optional=STATUS)
    if STATUS in table.column_names:
        table = table.filter(pc.equal(table[STATUS].cast(pa.string()), SUCCESS))
    table = table.filter(table[SHARD_KEY].is_valid())
    noted = as_text(table[SHARD_KEY].combine_chunks())
    if noted is None:
        raise DatasetError(
            f"{store.uri}/{path}: its {SHARD_KEY} is {table[SHARD_KEY].type}; wanted text, as in the tar"
        )
    if pc.count_distinct(noted).as_py() < len(noted):
        raise DatasetError(f"{store.uri}/{path} has two rows of {SHARD_KEY} {_repeated(noted)!r}; wanted one a sample")
    keys = key_array(read_keys(store, shard))
    rows = pc.index_in(keys, value_set=noted)
    if rows.null_count:
        missing = keys.filter(rows.is_null())[0].as_py().decode(errors="replace")
        raise DatasetError(
            f"{store.uri}/{path} lacks {rows.null_count} of the {len(keys)} samples of {shard.path}, the first of key "
            f"{missing!r}; restore it, or remove it so that the samples' own .{_JSON} is read"
        )
    return {SHARD_KEY: keys} | {name: table[name].combine_chunks().take(rows) for name in names}


def _read_members(store: Store, shard: ShardRow, names: Collection[str]) -> dict[str, pa.Array]:
    """The same from the samples' .json; null for a sample without one, or without a name in it."""
    where = f"{store.uri}/{shard.path}"
    keys: list[str] = []
    values: dict[str, list[Any]] = {name: [] for name in names}
    there: dict[str, None] = {}
    for key, content in _json_objects(store, shard):
        keys.append(key)
        there.update(dict.fromkeys(content))
        for name in names:
            values[name].append(content.get(name))
    for name in names:
        if name not in there:
            instead = f"there are: {', '.join(there)}" if there else f"and no {sidecar_path(shard)} lies beside it"
            raise DatasetError(f"{where}: no sample has {name!r} in its .{_JSON}, {instead}; {_ADVICE}")
    return {SHARD_KEY: key_array(keys)} | {name: _json_array(values[name], f"{where}: {name!r}") for name in names}


def _json_objects(store: Store, shard: ShardRow) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and .json of each sample; empty where there is none, or none that can be read."""
    unreadable = 0
    for chunk in range(shard.num_chunks):
        for sample in read_tar_chunk(store, shard, chunk, (_JSON,)):
            try:
                content = json.loads(sample.members.get(_JSON, b"{}"))
            except (ValueError, RecursionError):
                content = None
            unreadable += not isinstance(content, dict)
            yield sample.key, content if isinstance(content, dict) else {}
    if unreadable:
        logger.warning(
            "%s/%s: the .%s of %d samples is no JSON object; their values count as missing",
            store.uri,
            shard.path,
            _JSON,
            unreadable,
        )


def _json_array(values: list[Any], where: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        raise DatasetError(f"{where} in the samples' .{_JSON} is not of one type: {error}") from error


def _read_columns(store: Store, path: str, names: Collection[str], optional: str = "") -> pa.Table:
    """Columns of a Parquet file: all of ``names``, and ``optional`` where it is there."""
    where = f"{store.uri}/{path}"
    try:
        table = read_columns(store, path, [*names, optional])
        for name in names:
            if name not in table.column_names:
                there = ", ".join(read_footer(store, path).schema.to_arrow_schema().names)
                raise DatasetError(f"{where} has no column {name!r}; there are: {there}; {_ADVICE}")
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{where} is not a whole Parquet file: {error}; restore it") from error
    return table


def key_array(keys: Sequence[str]) -> pa.Array:
    """Keys as bytes: names in a tar need not be UTF-8."""
    return pa.array(map(key_bytes, keys), pa.binary())


def key_bytes(key: str) -> bytes:
    """A key as it is stored."""
    return key.encode(errors="surrogateescape")


def _repeated(keys: pa.Array) -> str:
    counts = pc.value_counts(keys)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py().decode(errors="replace")
