"""The shards of a data set in columns: 130,000 shards of 10,000 samples have 20 million chunk boundaries, too many for
Python's numbers. A row is made when it is asked for."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.shard import ShardRow

SHARD_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "size_bytes": pa.int64(),
        "etag": pa.string(),
        "num_samples": pa.int64(),
        "boundaries": pa.list_(pa.int64()),
        "problems": pa.list_(pa.string()),
        "sha256": pa.string(),
    }
)

_ROWS_AT_ONCE = 1024


class ShardTable(Sequence[ShardRow]):
    """A sequence of ``ShardRow`` over an Arrow table of ``SHARD_SCHEMA``."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()

    @classmethod
    def from_rows(cls, rows: Iterable[ShardRow]) -> "ShardTable":
        """The same rows, in columns."""
        return ShardTableBuilder(rows).build()

    @cached_property
    def paths(self) -> list[str]:
        """Of all shards."""
        paths: list[str] = self.table["path"].to_pylist()
        return paths

    @cached_property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Of each shard."""
        return self.table["num_samples"].to_numpy()

    @property
    def num_chunk_bounds(self) -> npt.NDArray[np.int64]:
        """Boundaries of each shard's chunk table; 0 where it has none."""
        return pc.list_value_length(self.table["boundaries"]).to_numpy().astype(np.int64)

    @cached_property
    def size_bytes(self) -> npt.NDArray[np.int64]:
        """Of each shard."""
        return self.table["size_bytes"].to_numpy()

    @property
    def has_chunk_table(self) -> npt.NDArray[np.bool_]:
        """Of each shard (``ShardRow.has_chunk_table``)."""
        return (self.num_chunk_bounds > 0) | (self.num_samples == 0)

    def layout_digest(self) -> str | None:
        """Hexadecimal SHA-256 of where all chunks begin; None while a shard has no chunk table.

        Shards that are written again with their samples in another order have another one, unless all samples have
        the same size; a copy has the same.
        """
        if not self.has_chunk_table.all():
            return None
        content = hashlib.sha256(np.ascontiguousarray(self.num_chunk_bounds, "<i8").data)
        content.update(np.ascontiguousarray(pc.list_flatten(self.table["boundaries"]).to_numpy(), "<i8").data)
        return content.hexdigest()

    def where(self, wanted: npt.NDArray[np.bool_]) -> "ShardTable":
        """The shards that are wanted."""
        return ShardTable(self.table.filter(pa.array(wanted)))

    def followed_by(self, other: "ShardTable") -> "ShardTable":
        """These shards, then those."""
        return ShardTable(pa.concat_tables([table.table.select(SHARD_SCHEMA.names) for table in (self, other)]))

    @property
    def etags(self) -> list[str]:
        """Of all shards."""
        etags: list[str] = self.table["etag"].to_pylist()
        return etags

    def without_etags(self) -> "ShardTable":
        """As it is in a copy of the data set, where they mean nothing."""
        at = self.table.schema.get_field_index("etag")
        return ShardTable(self.table.set_column(at, SHARD_SCHEMA.field("etag"), pa.array([""] * len(self))))

    def problems(self) -> Iterator[tuple[str, str]]:
        """(path, problem) of every problem."""
        for path, found in zip(self.paths, self.table["problems"].to_pylist(), strict=True):
            for problem in found:
                yield path, problem

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, at: int) -> ShardRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[ShardRow]: ...
    def __getitem__(self, at: int | slice) -> ShardRow | list[ShardRow]:
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        row: dict[str, Any] = self.table.slice(range(len(self))[at], 1).to_pylist()[0]
        lists = {name: tuple(row[name]) for name in ("boundaries", "problems")}
        return ShardRow(
            **(row | lists | {"sha256": row["sha256"] or ""})
        )  # an earlier release's index has no such column

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardTable) and self.table.equals(other.table)

    def __hash__(self) -> int:
        return hash((len(self), self.table.nbytes))

    def __iter__(self) -> Iterator[ShardRow]:
        return (self[number] for number in range(len(self)))


class ShardTableBuilder:
    """Takes rows one by one; keeps few of them as Python's numbers."""

    def __init__(self, rows: Iterable[ShardRow] = ()) -> None:
        self._tables = [SHARD_SCHEMA.empty_table()]
        self._rows: list[ShardRow] = []
        for row in rows:
            self.add(row)

    def add(self, row: ShardRow) -> None:
        """The next row."""
        self._rows.append(row)
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._convert()

    def build(self) -> ShardTable:
        """All rows so far."""
        self._convert()
        return ShardTable(pa.concat_tables(self._tables))

    def _convert(self) -> None:
        columns = {name: [getattr(row, name) for row in self._rows] for name in SHARD_SCHEMA.names}
        self._tables.append(pa.table(columns, schema=SHARD_SCHEMA))
        self._rows = []
