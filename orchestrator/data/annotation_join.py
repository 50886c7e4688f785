"""Annotations joined to the samples of a chunk, in the task that decodes it, and packed into a block's columns.

A sample lacks an annotation when its shard has no file of it, the file no row of the sample, or the row a null. What
follows, says the objective: the sample is kept and its presence column says so, or it is skipped as a bad one.

Legend: B rows of a block, N width of a column, S pixels a side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.columns import AnnotationKind, annotation_column, presence_column
from orchestrator.data.annotation_header import INDEX, KEY, AnnotationColumn
from orchestrator.data.annotations import annotation_path, read_annotation_chunk
from orchestrator.data.crop import Crop
from orchestrator.data.dense import sample_dense
from orchestrator.data.metadata import key_bytes
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.data.shard import ShardRow
from orchestrator.errors import AnnotationError
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.storage.store import Store

Values = Mapping[str, Any]
"""What a row has, by column of the block: numbers, lists and arrays; nothing of an annotation that it lacks."""

_FORMS: dict[AnnotationKind, tuple[Any, float]] = {
    "number": (np.float32, np.nan),
    "labels": (np.int32, -1),
    "embedding": (np.float32, 0),
    "depth": (np.float16, 0),
    "normals": (np.int8, 0),
    "mask": (np.uint8, 0),
}
"""Type in a block, and what stands where nothing is."""


@dataclass(frozen=True)
class _Rows:
    """The annotated samples of one chunk, by index."""

    plan: AnnotationPlan
    columns: Sequence[AnnotationColumn]
    by_index: Mapping[int, Mapping[str, Any]]


class ChunkAnnotations:
    """All annotations of one chunk of a shard."""

    def __init__(self, rows: Sequence[_Rows], where: str) -> None:
        self._rows, self._where = rows, where

    def values(self, sample: RawSample, crop: Crop, size: int, max_pixels: int) -> dict[str, Any]:
        """What a sample has; dense ones are squares of ``size`` that show ``crop``.

        Raises:
            BadSampleError: ``annotation_missing`` where the plan skips samples without it,
                ``annotation_undecodable`` (larger than ``max_pixels`` included).
            AnnotationError: a row was made for another sample.
        """
        values: dict[str, Any] = {}
        for rows in self._rows:
            row = self._find(rows, sample)
            if row is None:
                continue
            values[presence_column(rows.plan.name)] = True
            for column in rows.columns:
                value = row[column.name]
                if column.is_dense:
                    value = sample_dense(value, column, crop, size, max_pixels)
                values[annotation_column(rows.plan.name, column.name)] = value
        return values

    def check_presence(self, sample: RawSample) -> None:
        """Raises BadSampleError ``annotation_missing`` before anything is decoded in vain."""
        for rows in self._rows:
            if rows.plan.missing == "skip" and self._find(rows, sample) is None:
                raise BadSampleError("annotation_missing")

    def _find(self, rows: _Rows, sample: RawSample) -> Mapping[str, Any] | None:
        row = rows.by_index.get(sample.index)
        if row is None or any(row[column.name] is None for column in rows.columns):
            return None
        if row[KEY] != key_bytes(sample.key):
            raise AnnotationError(
                f"annotation {rows.plan.folder} of {self._where}: sample {sample.index} has key {sample.key!r}, its "
                f"row {row[KEY].decode(errors='replace')!r}; remove the annotation and make it again"
            )
        return row


def read_chunk_annotations(
    store: Store, shard: ShardRow, chunk: int, plans: Sequence[AnnotationPlan], digests: Sequence[str | None]
) -> ChunkAnnotations:
    """The annotations of one chunk.

    Args:
        digests: that the plans were made with for this data set.

    Raises:
        AnnotationError: a file is damaged, of another version of the shard, or of another maker than planned.
        ShardReadError: reading failed after its retries.
    """
    rows = [_read_rows(store, shard, chunk, plan, digest) for plan, digest in zip(plans, digests, strict=True)]
    return ChunkAnnotations(rows, f"{store.uri}/{shard.path}")


def pack_annotation(plan: AnnotationPlan, rows: Sequence[Values], size: int) -> dict[str, pa.Array]:
    """The columns of a block: values in fixed-size lists, and which rows have them."""
    presence = presence_column(plan.name)
    arrays = {presence: pa.array([presence in row for row in rows])}
    for name, facts in plan.columns.items():
        column = annotation_column(plan.name, name)
        dtype, nothing = _FORMS[facts.kind]
        numbers = {"depth": size**2, "normals": 3 * size**2, "mask": size**2}.get(facts.kind, facts.width)
        packed_BN: npt.NDArray[Any] = np.full((len(rows), numbers), nothing, dtype)
        for number, row in enumerate(rows):
            if column in row:
                flat_N = np.asarray(row[column], dtype).reshape(-1)
                packed_BN[number, : len(flat_N)] = flat_N
        flat = pa.array(packed_BN.reshape(-1))
        arrays[column] = flat if facts.kind == "number" else pa.FixedSizeListArray.from_arrays(flat, numbers)
    return arrays


def _read_rows(store: Store, shard: ShardRow, chunk: int, plan: AnnotationPlan, digest: str | None) -> _Rows:
    found = read_annotation_chunk(store, plan.folder, shard, chunk, tuple(plan.columns))
    if found is None:
        return _Rows(plan, (), {})
    header, table = found
    if header.annotation.digest != digest:
        maker = header.annotation.maker
        raise AnnotationError(
            f"annotation {store.uri}/{annotation_path(plan.folder, shard.path)} is of {maker.name} {maker.version}, "
            f"settings {maker.settings}: others than the run was planned with; make the annotation again for all "
            f"shards with '{maker.command}', or run the job under another name"
        )
    columns = [column for column in header.annotation.columns if column.name in plan.columns]
    return _Rows(plan, columns, {row[INDEX]: row for row in table.to_pylist()})
