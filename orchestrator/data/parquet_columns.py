"""What a column of a Parquet shard may be, and its rows as the members of samples.

Bytes come as they are, text as UTF-8, numbers as their decimal text, nulls not at all; of the struct of ``bytes`` and
``path`` that Hugging Face keeps an image in, the bytes.
"""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.sample import RawSample
from orchestrator.errors import DatasetError

_CONTENT = "bytes"  # of Hugging Face's struct


class ColumnTypeError(DatasetError):
    """A column that has no one value a row to be a member of a sample."""


def choose_columns(schema: pa.Schema, fields: Collection[str] | None, where: str) -> list[str]:
    """Names of the columns of ``fields``; None: of all.

    Args:
        where: the shard, for the error.

    Raises ColumnTypeError for a list, a struct, a time, or a name that two columns have.
    """
    wanted = [field for field in schema if fields is None or field.name in fields]
    names = [field.name for field in wanted]
    for field in wanted:
        if names.count(field.name) > 1:
            found = f"there {names.count(field.name)} times; wanted once"
        elif not _is_member(field.type):
            found = f"of type {field.type}; wanted bytes, text or a number (an image also as struct<bytes, path>)"
        else:
            continue
        raise ColumnTypeError(
            f"{where}: column {field.name!r} is {found}. Write the shard anew, or name other columns: "
            f"data.image_fields and data.caption_fields of a job, --image-field and --caption-field of data verify"
        )
    return names


def to_samples(table: pa.Table, first: int) -> list[RawSample]:
    """Rows of columns that were chosen as samples, the first of which is row ``first`` of its file."""
    for number, name in enumerate(table.column_names):
        table = table.set_column(number, name, _to_members(table.column(number)))
    return [
        RawSample(index, str(index), {name: _to_bytes(value) for name, value in row.items() if value is not None})
        for index, row in enumerate(table.to_pylist(), first)
    ]


def _is_member(kind: pa.DataType) -> bool:
    """Whether a value of this type is bytes, text or a number."""
    if isinstance(kind, pa.BaseExtensionType):
        return _is_member(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _is_member(kind.value_type)
    if pa.types.is_struct(kind):
        at = kind.get_field_index(_CONTENT)
        return at >= 0 and (pa.types.is_binary(kind[at].type) or pa.types.is_large_binary(kind[at].type))
    return not (pa.types.is_nested(kind) or pa.types.is_temporal(kind))


def _to_members(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without what is around its values."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _to_members(column.cast(kind.storage_type))
    if pa.types.is_dictionary(kind):  # a cast would refuse text that is not UTF-8
        return _to_members(pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], kind.value_type))
    if pa.types.is_struct(kind):
        return pc.struct_field(column, _CONTENT)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        # As it is: a text that is not UTF-8 is a fault of its sample, not of the reading.
        return column.cast(pa.large_binary())
    return column


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
