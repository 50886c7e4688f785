"""The driver's page for Prometheus: what the table names, with labels, over a real connection."""

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrator.errors import PlanError
from orchestrator.tracking import metrics
from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.prometheus import MetricsPage, prometheus_name, serve_metrics
from orchestrator.tracking.tracker import RunTarget

LINE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*\{([a-z_]+="(\\.|[^"\\])*",?)+\} \S+$')


def test_a_page_has_the_last_value_of_each_metric_with_its_labels() -> None:
    page = MetricsPage("small")
    page.update({metrics.LOSS: 3.0, metrics.skipped_samples("decode"): 1.0})
    page.update({metrics.LOSS: 2.5, metrics.skipped_samples("size"): 4.0})
    lines = page.text().splitlines()
    assert 'orchestrator_train_loss{run="small"} 2.5' in lines
    assert 'orchestrator_train_skipped_samples{run="small",reason="decode"} 1.0' in lines
    assert 'orchestrator_train_skipped_samples{run="small",reason="size"} 4.0' in lines
    assert len([line for line in lines if line.startswith("# TYPE orchestrator_train_skipped_samples")]) == 1
    assert all(LINE.match(line) for line in lines if not line.startswith("#"))


def test_values_that_are_no_numbers_and_names_with_quotes_are_written_as_prometheus_reads_them() -> None:
    page = MetricsPage("small")
    page.update({metrics.LOSS: float("nan"), metrics.ledger_count('a"b\\', "missing"): float("inf")})
    text = page.text()
    assert 'orchestrator_train_loss{run="small"} nan' in text
    assert 'dataset="a\\"b\\\\",count="missing"} inf' in text


def test_a_metric_that_the_table_lacks_is_shown_all_the_same() -> None:
    page = MetricsPage("small")
    page.update({"other/made-up": 1.0})
    assert 'orchestrator_other_made_up{run="small"} 1.0' in page.text()


def test_names_of_the_table_stay_apart_and_are_valid() -> None:
    names = [prometheus_name(row) for row in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_what_a_tracker_records_is_served_and_nothing_else(tmp_path: Path) -> None:
    with serve_metrics("small", "127.0.0.1:0") as on_metrics:
        assert on_metrics is not None
        target = RunTarget(f"sqlite:///{tmp_path}/mlflow.db", "x", "small", "key")
        tracker = open_tracker(target, tmp_path, "driver", owns_run=True, on_metrics=on_metrics)
        tracker.log_metrics({metrics.SAMPLES_PER_S: 12.0}, 1)
        tracker.close()
        server = on_metrics.__self__  # type: ignore[attr-defined]
        assert "orchestrator_train_samples_per_s" in server.text()


def test_a_page_is_read_over_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with serve_metrics("small", address) as on_metrics:
        assert on_metrics is not None
        on_metrics({metrics.ATTEMPTS: 2.0})
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b'orchestrator_run_attempts{run="small"} 2.0' in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{address}/", timeout=10)
        with pytest.raises(PlanError, match=rf"tracking\.metrics_address: {address} cannot be bound"):
            serve_metrics("other", address).__enter__()


def test_without_an_address_nothing_listens() -> None:
    with serve_metrics("small", None) as on_metrics:
        assert on_metrics is None


def test_runs_that_go_on_at_once_share_a_page() -> None:
    page = MetricsPage("comparison")
    page.update({metrics.LOSS: 3.0}, run="one")
    page.update({metrics.LOSS: 2.0}, run="two")
    assert {'orchestrator_train_loss{run="one"} 3.0', 'orchestrator_train_loss{run="two"} 2.0'} <= set(
        page.text().splitlines()
    )
