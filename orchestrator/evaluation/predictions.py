"""What each row of an evaluation set got, kept beside the run: a verdict counts test rows and seeds together.

One Parquet file an evaluation, a row for each judged row, probe and target with one label a row; and one of what is
most similar to each row, for people to look at. The run's own evaluation has names that no later one writes to: what a
comparison was found from stays as it is. The same predictions give the same bytes. Safe to read from anywhere: numbers
and names only.

Legend: N rows.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.errors import TrackingError
from orchestrator.evaluation.results import ProbeResult, probe_name
from orchestrator.storage.store import ObjectNotFoundError, Store

PREDICTIONS = "predictions"
"""Folder below the run's."""

_NAMES = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    {
        "set": _NAMES,
        "probe": _NAMES,
        "target": _NAMES,
        "named_in_captions": pa.bool_(),
        "row": pa.int64(),
        "label": pa.int32(),
        "predicted": pa.int32(),
    }
)
_NEAREST_SCHEMA = pa.schema(
    {"set": _NAMES, "probe": _NAMES, "row": pa.int64(), "nearest": pa.int64(), "caption": pa.int32()}
)
NearestRows = dict[tuple[str, str], dict[int, tuple[int, int]]]
"""By set and probe, of each row the row that is most similar, and which of its captions (-1: the image itself)."""


@dataclass(frozen=True)
class TargetPredictions:
    """Those of one probe for one target."""

    set: str
    probe: str
    """As metrics call it, with its feature where that is not the usual one."""
    target: str
    named_in_captions: bool
    row_N: NDArray[np.int64]
    """Numbers within the set, ascending."""
    label_N: NDArray[np.int32]
    predicted_N: NDArray[np.int32]
    """Places in the target's classes, as of the label."""

    @property
    def hits(self) -> NDArray[np.float64]:
        """fp64 [N]: 1 where the prediction is right."""
        return (self.label_N == self.predicted_N).astype(np.float64)


def predictions_file(step: int, weights: Literal["raw", "ema"], asked: str = "") -> str:
    """Path below the run's folder; ``asked``: names an evaluation that is not the run's own."""
    return f"{PREDICTIONS}/{_prefix(asked)}step-{step:08d}-{weights}.parquet"


def nearest_file(step: int, weights: Literal["raw", "ema"], asked: str = "") -> str:
    """Path below the run's folder, as ``predictions_file``."""
    return f"{PREDICTIONS}/{_prefix(asked)}nearest-{step:08d}-{weights}.parquet"


def judged_file(step: int, weights: Literal["raw", "ema"]) -> str:
    """Path below the run's folder of what says that an evaluation of the run's own was recorded."""
    return f"{PREDICTIONS}/step-{step:08d}-{weights}.judged"


def write_predictions(
    store: Store, step: int, weights: Literal["raw", "ema"], results: Sequence[ProbeResult], asked: str = ""
) -> None:
    """Keep what the results predict, be it nothing, and what they find nearest, where something does."""
    predictions = [_to_table(one) for one in results if one.predictions is not None]
    _write(store, predictions_file(step, weights, asked), [_SCHEMA.empty_table(), *predictions])
    # Neighbours do not depend on the target: those of the first stand for all.
    firsts = {(one.set, one.probe): one for one in reversed(results) if one.nearest is not None}
    _write(store, nearest_file(step, weights, asked), [_to_nearest_table(one) for one in reversed(firsts.values())])


def mark_judged(store: Store, step: int, weights: Literal["raw", "ema"]) -> None:
    """Say that the scores of the run's own evaluation of a step are recorded.

    Left to whoever records them: workers outlive a driver that is killed by seconds, and may end an evaluation that
    nobody hears of.
    """
    store.write_bytes(judged_file(step, weights), b"recorded\n")


def is_judged(store: Store, step: int, weights: Sequence[Literal["raw", "ema"]]) -> bool:
    """Whether the run's own evaluation of all these weights of a step has ended, and its scores are recorded."""
    return all(store.stat(judged_file(step, one)) is not None for one in weights)


def read_nearest(store: Store, step: int, weights: Literal["raw", "ema"]) -> NearestRows:
    """What ``write_predictions`` kept of it for the run's own evaluation; none where that left none.

    Raises TrackingError for a damaged file.
    """
    columns = _read_table(store, nearest_file(step, weights), _NEAREST_SCHEMA).to_pydict()
    found: NearestRows = {}
    for set_name, probe, row, nearest, caption in zip(*(columns[name] for name in _NEAREST_SCHEMA.names), strict=True):
        found.setdefault((set_name, probe), {})[row] = (nearest, caption)
    return found


def read_predictions(store: Store, step: int, weights: Literal["raw", "ema"]) -> list[TargetPredictions]:
    """What ``write_predictions`` kept for the run's own evaluation; none where it left none.

    Raises TrackingError for a damaged file.
    """
    table = _read_table(store, predictions_file(step, weights), _SCHEMA)
    keys = list(zip(*(table[name].to_pylist() for name in _SCHEMA.names[:4]), strict=True))
    bounds = [*(i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]), len(keys)]
    columns = [table[name].to_numpy() for name in _SCHEMA.names[4:]]
    return [TargetPredictions(*keys[low], *(column[low:high] for column in columns)) for low, high in pairwise(bounds)]


def row_scores(
    predictions: Sequence[TargetPredictions], metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Row numbers and what each row adds to an accuracy, whose mean it is; none for metrics of another kind.

    Args:
        metric: full name, of one target (``.../shape/accuracy``) or of a group of them (``.../named/mean_accuracy``).
    """
    prefix, _, score = metric.rpartition("/")
    _, set_name, probe, target = prefix.split("/")
    own = [one for one in predictions if (one.set, one.probe) == (set_name, probe)]
    match score, target:
        case "accuracy", _:
            own = [one for one in own if one.target == target]
        case "mean_accuracy", "named" | "unnamed":
            own = [one for one in own if one.named_in_captions == (target == "named")]
        case "mean_accuracy", "all":
            pass
        case _:
            return None
    if not own or any(not np.array_equal(one.row_N, own[0].row_N) for one in own):
        return None
    return own[0].row_N, np.mean([one.hits for one in own], axis=0)


def _prefix(asked: str) -> str:
    return f"evaluate-{asked}-" if asked else ""


def _write(store: Store, path: str, parts: Sequence[pa.Table]) -> None:
    if parts:
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(parts).unify_dictionaries(), buffer, compression="zstd")
        store.write_bytes(path, buffer.getvalue())


def _read_table(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    """Without rows where there is no such file; raises TrackingError for one that is damaged."""
    try:
        content = store.read_bytes(path)
    except ObjectNotFoundError:
        return schema.empty_table()
    try:
        table = pq.read_table(io.BytesIO(content)).select(schema.names).cast(schema)
        table.validate(full=True)  # columns of one length, names in their dictionaries
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise TrackingError(
            f"{store.uri}/{path} is damaged: {' '.join(str(error).split())}; wanted the Parquet file that the run "
            f"wrote: copy it again, or remove it"
        ) from error
    return table


def _to_nearest_table(result: ProbeResult) -> pa.Table:
    found = result.nearest
    assert found is not None
    constant = [[name] * len(found.row) for name in (result.set, result.probe)]
    return pa.table([*constant, found.row, found.nearest, found.caption], schema=_NEAREST_SCHEMA)


def _to_table(result: ProbeResult) -> pa.Table:
    found = result.predictions
    assert found is not None
    name = (result.set, probe_name(result.probe, result.feature), result.target, result.named_in_captions)
    constant = [[value] * len(found.row) for value in name]
    columns = [*constant, found.row, found.label, found.predicted]
    return pa.table(columns, schema=_SCHEMA)
