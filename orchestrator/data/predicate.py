"""Whether the values of a metadata column are what a predicate asks for; and what any other rule of a selection is."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.metadata import as_text
from orchestrator.data.shard import ShardRow
from orchestrator.errors import DatasetError
from orchestrator.spec.selection import PredicateSpec
from orchestrator.storage.store import Store

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[Any]


class SampleRule(Protocol):
    """Another rule by which samples stay, beside lists and predicates."""

    @property
    def reason(self) -> str:
        """What leaves a sample out."""
        ...

    @property
    def digest(self) -> str:
        """Of all that decides."""
        ...

    def keeps(self, store: Store, shard: ShardRow) -> Mask:
        """[samples] which ones stay."""
        ...


def satisfies(column: pa.Array, predicate: PredicateSpec, where: str) -> Mask:
    """Which rows the predicate keeps, [rows]; null and NaN are missing.

    Args:
        where: names the column in messages.

    Raises DatasetError when the column holds something else than the predicate asks about.
    """
    present = pc.invert(column.is_null(nan_is_null=True))
    mask = present.to_numpy(zero_copy_only=False)
    kept = np.full(len(column), predicate.keep_missing)
    if mask.any():
        kept[mask] = _holds(column.filter(present), predicate, where)
    return kept


def _holds(column: pa.Array, predicate: PredicateSpec, where: str) -> Mask:
    """The same for rows that have a value."""
    text = as_text(column)
    kind = "text" if text is not None else _number_kind(column.type)
    if kind != predicate.kind:
        asked = "min and max ask" if predicate.one_of is None else "one_of asks"
        raise DatasetError(
            f"{where} holds {column.type}, but {asked} for {predicate.kind}; correct where under the job's select"
        )
    if text is not None:
        wanted = pa.array([str(value).encode() for value in predicate.one_of or ()], pa.binary())
        return np.asarray(pc.is_in(text, value_set=wanted))
    return _number_holds(_to_numbers(column), predicate)


def _number_holds(values: Values, predicate: PredicateSpec) -> Mask:
    # A bound compares in the column's own precision, so that a stored float32 of 0.7 is at least 0.7.
    with np.errstate(over="ignore"):
        if predicate.one_of is not None:
            return np.logical_or.reduce([values == value for value in predicate.one_of])
        kept = np.ones(len(values), bool)
        if predicate.min is not None:
            kept &= values >= predicate.min
        if predicate.max is not None:
            kept &= values <= predicate.max
        return kept


def _to_numbers(column: pa.Array) -> Values:
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)


def _number_kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "true/false"
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return "numbers" if is_number else str(kind)
