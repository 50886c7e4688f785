"""What each row got, as it is kept beside a run."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import TrackingError
from orchestrator.evaluation.bootstrap import Estimate
from orchestrator.evaluation.predictions import (
    nearest_file,
    predictions_file,
    read_nearest,
    read_predictions,
    row_scores,
    write_predictions,
)
from orchestrator.evaluation.results import (
    EMBEDDING,
    POOLED,
    Nearest,
    Predictions,
    ProbeResult,
    results_to_json,
    summarise,
)
from orchestrator.storage.store import open_store


def result(target: str, predictions: Predictions | None, named: bool = True, feature: str = POOLED) -> ProbeResult:
    hits = [] if predictions is None else np.equal(predictions.label, predictions.predicted)
    scores = {} if predictions is None else {"accuracy": Estimate(float(np.mean(hits)), 0, 1)}
    return ProbeResult("scenes", "linear_probe", target, feature, named, 3, scores=scores, predictions=predictions)


SHAPE = Predictions(row=[1, 4, 9, 11], label=[0, 1, 2, 0], predicted=[0, 1, 1, 0])
LIGHT = Predictions(row=[1, 4, 9, 11], label=[1, 1, 0, 0], predicted=[0, 1, 1, 0])
RESULTS = [
    result("shape", SHAPE),
    result("shape", LIGHT, feature=EMBEDDING),
    result("tags", None),
    result("light", LIGHT, named=False),
]


def test_predictions_come_back_by_probe_and_target(tmp_path):
    store = open_store(str(tmp_path))
    write_predictions(store, 120, "ema", RESULTS)
    found = read_predictions(store, 120, "ema")
    assert [(one.probe, one.target, one.named_in_captions) for one in found] == [
        ("linear_probe", "shape", True),
        ("linear_probe.embedding", "shape", True),
        ("linear_probe", "light", False),
    ]
    assert found[0].row_N.tolist() == SHAPE.row
    assert found[0].hits.tolist() == [1, 1, 0, 1]
    assert read_predictions(store, 120, "raw") == []


def test_what_is_nearest_comes_back_once_a_probe(tmp_path):
    store = open_store(str(tmp_path))
    assert read_nearest(store, 1, "raw") == {}
    first, second = (
        replace(result(name, SHAPE), probe="nearest_neighbours", nearest=Nearest([3, 7], [row, 5], [-1, -1]))
        for name, row in (("shape", 4), ("color", 6))
    )
    captions = replace(first, probe="retrieval", predictions=None, nearest=Nearest([3], [3], [1]))
    write_predictions(store, 1, "raw", [first, second, captions])
    images = {3: (4, -1), 7: (5, -1)}
    assert read_nearest(store, 1, "raw") == {
        (first.set, "nearest_neighbours"): images,
        (first.set, "retrieval"): {3: (3, 1)},
    }
    assert ProbeResult.from_dict(first.to_dict()).nearest is None
    assert ProbeResult.from_dict(first.to_dict(with_predictions=True)) == first


def test_probes_that_predict_nothing_leave_a_file_without_rows(tmp_path):
    store = open_store(str(tmp_path))
    write_predictions(store, 3, "raw", [result("tags", None)])
    assert store.stat(predictions_file(3, "raw")) is not None
    assert store.stat(nearest_file(3, "raw")) is None
    assert read_predictions(store, 3, "raw") == []


def test_the_same_predictions_are_the_same_bytes(tmp_path):
    stores = [open_store(str(tmp_path / name)) for name in ("a", "b")]
    for store in stores:
        write_predictions(store, 1, "raw", RESULTS)
    first, second = (store.read_bytes(predictions_file(1, "raw")) for store in stores)
    assert first == second


@pytest.mark.parametrize("damage", ["truncated", "flipped", "of other columns"])
def test_a_damaged_file_is_named(tmp_path, damage):
    store = open_store(str(tmp_path))
    write_predictions(store, 1, "raw", [replace(RESULTS[0], nearest=Nearest([1], [4], [-1]))])
    for file, read in ((predictions_file(1, "raw"), read_predictions), (nearest_file(1, "raw"), read_nearest)):
        content = bytearray(store.read_bytes(file))
        if damage == "truncated":
            content = content[: len(content) // 2]
        elif damage == "flipped":
            content[4:40] = bytes(36)
        else:
            buffer = io.BytesIO()
            pq.write_table(pa.table({"row": [1]}), buffer)
            content = buffer.getvalue()
        store.write_bytes(file, bytes(content))
        with pytest.raises(TrackingError, match=rf"{file} is damaged: .*wanted the Parquet file that the run wrote"):
            read(store, 1, "raw")


@pytest.mark.parametrize(
    "metric",
    [
        "eval/scenes/linear_probe/shape/accuracy",
        "eval_ema/scenes/linear_probe.embedding/shape/accuracy",
        "eval/scenes/linear_probe/named/mean_accuracy",
        "eval/scenes/linear_probe/all/mean_accuracy",
    ],
)
def test_rows_average_to_the_metric(tmp_path, metric):
    store = open_store(str(tmp_path))
    write_predictions(store, 1, "raw", RESULTS)
    found = row_scores(read_predictions(store, 1, "raw"), metric)
    assert found is not None
    metrics = {name: value for one in RESULTS for name, value in one.metrics().items()} | summarise(RESULTS)
    assert found[1].mean() == pytest.approx(metrics[metric.replace("eval_ema", "eval")])
    assert found[0].tolist() == SHAPE.row


def test_a_metric_that_is_no_mean_over_rows_has_none(tmp_path):
    store = open_store(str(tmp_path))
    write_predictions(store, 1, "raw", RESULTS)
    predictions = read_predictions(store, 1, "raw")
    assert row_scores(predictions, "eval/scenes/linear_probe/shape/top5_accuracy") is None
    assert row_scores(predictions, "eval/scenes/zero_shot/shape/accuracy") is None


def test_what_is_printed_holds_no_rows():
    assert "row" not in results_to_json(RESULTS).replace("synset_rows", "")
    assert ProbeResult.from_dict(RESULTS[0].to_dict()).predictions is None
    assert ProbeResult.from_dict(RESULTS[0].to_dict(with_predictions=True)) == RESULTS[0]
