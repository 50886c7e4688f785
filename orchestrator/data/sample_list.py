"""Lists of samples by key or uid, .npy or Parquet, and which values of a column stand on one.

A list is a sorted array that is searched; a sorted .npy on disk is mapped, not read, so that it may be larger than
memory. Three forms: text, whole numbers, and DataComp's uids, a 128-bit hexadecimal number as two uint64 halves
(dtype ``u8,u8``; https://github.com/mlfoundations/datacomp, resharder.py), against a column of 32 digits. Text lists
in Parquet whose values all have that form are kept as such halves, at a third of the memory.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.metadata import as_text
from orchestrator.errors import DatasetError
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import Store, checked_path

logger = logging.getLogger(__name__)

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

UID = np.dtype("u8,u8")
"""Upper and lower half of a 128-bit uid."""

_UID_DIGITS = 32
_NO_DIGIT = 255
_DIGIT_VALUES = np.full(256, _NO_DIGIT, np.uint8)
_DIGIT_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_DIGIT_VALUES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)

_PIECE = 2**22  # values looked at together
_BATCH_ROWS = 2**20


@dataclass(frozen=True, eq=False)
class SampleList:
    """A list that is open for search."""

    uri: str
    values: Values
    """Sorted; text (dtype S or U), whole numbers, or ``UID``."""

    def contains(self, column: pa.Array, where: str) -> Mask:
        """Which values of a column stand on the list, [rows]; null stands on none.

        Args:
            where: names the column in messages.

        Raises DatasetError when list and column hold different things.
        """
        found = np.zeros(len(column), bool)
        present = column.is_valid().to_numpy(zero_copy_only=False)
        if len(self.values) and present.any():
            found[present] = self._find(column.drop_null(), where)
        return found

    def _find(self, column: pa.Array, where: str) -> Mask:
        if self.values.dtype.kind in "iu":
            if not pa.types.is_integer(column.type):
                raise self._mismatch("whole numbers", where, column)
            return _find_integers(self.values, column.to_numpy())
        if as_text(column) is None:
            raise self._mismatch("128-bit uids" if self.values.dtype == UID else "text", where, column)
        needles = _texts(column)
        if self.values.dtype != UID:
            return _find_text(self.values, needles)
        uids, valid = parse_uids(needles)
        if not valid.any():
            raise self._mismatch("128-bit uids", where, column)
        return valid & _find_uids(self.values, uids)

    def _mismatch(self, held: str, where: str, column: pa.Array) -> DatasetError:
        return DatasetError(
            f"{self.uri} lists {held}, but {where} holds {column.type} such as {column[0].as_py()!r}; name another "
            f"list, or the column that holds what it lists as list_by"
        )


@contextmanager
def open_sample_list(store: Store, path: str, column: str) -> Iterator[SampleList]:
    """Open a list; one that is not on a local disk is copied to a temporary file while it is open.

    Args:
        column: which column of a Parquet file is the list; one of a single column needs no such name.

    Raises DatasetError for a file that is absent or damaged, or holds no list.
    """
    uri = f"{store.uri}/{path}"
    with _local_file(store, path) as file:
        values = _load_parquet(file, uri, column) if path.endswith(".parquet") else _load_npy(file, uri)
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        if not _is_sorted(values):
            logger.info("%s is not sorted; sorting its %s values in memory", uri, f"{len(values):,}")
            values = _sort(values)
        yield SampleList(uri, values)


def parse_uids(texts: Values) -> tuple[Values, Mask]:
    """Uids of hexadecimal texts, [rows] of ``UID``, and which of them are valid (32 digits).

    Args:
        texts: [rows] of bytes.
    """
    letters = texts.astype(f"S{_UID_DIGITS + 1}").view(np.uint8).reshape(-1, _UID_DIGITS + 1)
    digits = _DIGIT_VALUES[letters[:, :_UID_DIGITS]]
    valid = (digits != _NO_DIGIT).all(axis=1) & (letters[:, _UID_DIGITS] == 0)
    halves = (digits[:, 0::2] << 4 | digits[:, 1::2]).view(">u8").astype(np.uint64)
    return halves.view(UID)[:, 0], valid


@contextmanager
def _local_file(store: Store, path: str) -> Iterator[Path]:
    if isinstance(store, LocalStore):
        yield Path(store.uri, checked_path(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(path).name)
        store.download(path, file)
        yield file


def _load_npy(file: Path, uri: str) -> Values:
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DatasetError(f"{uri} is no .npy file that can be read: {error}") from error
    if not isinstance(values, np.ndarray) or not _is_list(values):
        held = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "an archive of arrays"
        raise DatasetError(
            f"{uri} holds {held}; wanted one dimension of text, whole numbers, or pairs of uint64 (dtype 'u8,u8')"
        )
    return np.asarray(values)


def _is_list(values: Values) -> bool:
    return values.ndim == 1 and (values.dtype.kind in "SUiu" or values.dtype.newbyteorder("=") == UID)


def _load_parquet(file: Path, uri: str, column: str) -> Values:
    try:
        with pq.ParquetFile(file) as source:
            names = source.schema_arrow.names
            if column not in names and len(names) != 1:
                raise DatasetError(
                    f"{uri} has no column {column!r}; there are: {', '.join(names)}; name one as list_by"
                )
            return _load_column(source, column if column in names else names[0], uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{uri} is no Parquet file that can be read: {error}") from error


def _load_column(source: pq.ParquetFile, name: str, uri: str) -> Values:
    def batches() -> Iterator[pa.Array]:
        for batch in source.iter_batches(_BATCH_ROWS, columns=[name]):
            yield batch.column(0).drop_null()

    kind = source.schema_arrow.field(name).type
    if pa.types.is_integer(kind):
        return np.concatenate([np.zeros(0, kind.to_pandas_dtype()), *(batch.to_numpy() for batch in batches())])
    if as_text(pa.nulls(0, kind)) is None:
        raise DatasetError(f"{uri}: its column {name!r} holds {kind}; wanted text or whole numbers")
    uids = _load_uids(batches(), source.metadata.num_rows)
    if uids is not None:
        return uids
    return np.concatenate([_texts(batch).astype(bytes) for batch in batches()])


def _load_uids(batches: Iterable[pa.Array], num_rows: int) -> Values | None:
    """The column as ``UID``; None when it is other text."""
    uids, count = np.empty(num_rows, UID), 0
    for batch in batches:
        values, valid = parse_uids(_texts(batch))
        if not valid.all():
            return None
        uids[count : count + len(values)] = values
        count += len(values)
    return uids[:count]


def _texts(column: pa.Array) -> Values:
    """Text as [rows] of bytes."""
    text: pa.Array = as_text(column)
    return text.to_numpy(zero_copy_only=False)


def _is_sorted(values: Values) -> bool:
    pieces = (values[start : start + _PIECE + 1] for start in range(0, len(values), _PIECE))
    return all(_rises(piece) for piece in pieces)


def _rises(values: Values) -> bool:
    if values.dtype != UID:
        return bool((values[:-1] <= values[1:]).all())
    upper, lower = values["f0"], values["f1"]
    rises = (upper[:-1] < upper[1:]) | ((upper[:-1] == upper[1:]) & (lower[:-1] <= lower[1:]))
    return bool(rises.all())


def _sort(values: Values) -> Values:
    if values.dtype != UID:
        return np.sort(values)
    return values[np.lexsort((values["f1"], values["f0"]))]  # much faster than comparing records


def _search(values: Values, needles: Values) -> Mask:
    positions = np.minimum(np.searchsorted(values, needles), len(values) - 1)
    return np.asarray(values[positions] == needles)


def _find_integers(values: Values, needles: Values) -> Mask:
    limits = np.iinfo(values.dtype)
    fits = (needles >= limits.min) & (needles <= limits.max)
    return fits & _search(values, needles.astype(values.dtype))  # another type would copy the list


def _find_text(values: Values, needles: Values) -> Mask:
    if values.dtype.kind == "U":
        texts = np.array([needle.decode(errors="surrogateescape") for needle in needles])
    else:
        texts = needles.astype(bytes)
    cut = texts.astype(values.dtype)  # a longer type would copy the list
    return (cut == texts) & _search(values, cut)


def _find_uids(values: Values, needles: Values) -> Mask:
    """Search by the upper half, then among equal ones by the lower: NumPy compares records slowly."""
    upper, lower = values["f0"], values["f1"]
    first = np.searchsorted(upper, needles["f0"], "left")
    stop = np.searchsorted(upper, needles["f0"], "right")
    low, high = first, stop
    while (undecided := low < high).any():
        middle = (low + high) // 2
        below = undecided & (lower[np.minimum(middle, len(values) - 1)] < needles["f1"])
        low = np.where(below, middle + 1, low)
        high = np.where(undecided & ~below, middle, high)
    return (low < stop) & (lower[np.minimum(low, len(values) - 1)] == needles["f1"])
