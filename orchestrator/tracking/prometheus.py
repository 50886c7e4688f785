"""The last values of a run as a page for Prometheus, served by the driver. MLflow keeps the history; this is for now.

A metric's name is that of ``metrics.py`` with ``/`` as ``_`` and the package's name in front; what stands in angle
brackets there is a label here: ``train/skipped_samples/<reason>`` is
``orchestrator_train_skipped_samples{run="...", reason="..."}``. The page has numbers and names, no setting and no URI.
"""

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from orchestrator.errors import PlanError
from orchestrator.tracking.metrics import MetricRow, find_metric

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"


class OnMetrics(Protocol):
    """Is handed a run's metrics as they come."""

    def __call__(self, values: Mapping[str, float], run: str | None = None) -> None:
        """``run``: whose they are; none: of the page's own run."""


class MetricsPage:
    """Holds the last value of every metric; safe from several threads."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._help: dict[str, str] = {}
        self._values: dict[str, dict[str, float]] = {}  # by name, then by labels

    def update(self, values: Mapping[str, float], run: str | None = None) -> None:
        """Take values by their names of ``metrics.py``; one that the table lacks goes by its own name."""
        with self._lock:
            for metric, value in values.items():
                row, parts = find_metric(metric) or (MetricRow(metric, "unknown", "not described"), {})
                name = prometheus_name(row)
                labels = ",".join(
                    f'{key}="{_escape(part)}"' for key, part in {"run": run or self._run, **parts}.items()
                )
                self._help[name] = f"{row.meaning} ({row.unit})"
                self._values.setdefault(name, {})[labels] = value

    def text(self) -> str:
        """The page, in Prometheus' text format."""
        lines = []
        with self._lock:
            for name, values in self._values.items():
                lines += [f"# HELP {name} {_escape(self._help[name])}", f"# TYPE {name} gauge"]
                lines += [f"{name}{{{labels}}} {value!r}" for labels, value in values.items()]
        return "".join(f"{line}\n" for line in lines)


@contextmanager
def serve_metrics(run: str, address: str | None) -> Iterator[OnMetrics | None]:
    """Serve a run's page at ``HOST:PORT`` within; what is handed to the yielded call is on it. None: no address.

    Raises:
        PlanError: the address cannot be bound.
    """
    if address is None:
        yield None
        return
    page = MetricsPage(run)
    server = _bind(address, page)
    threading.Thread(target=server.serve_forever, name="metrics-page", daemon=True).start()
    logger.info("metrics for Prometheus: http://%s:%d%s", *server.server_address[:2], PATH)
    try:
        yield page.update
    finally:
        server.shutdown()
        server.server_close()


def prometheus_name(row: MetricRow) -> str:
    """A row's name there, without its placeholders."""
    parts = [part.partition("<")[0].rstrip("_") for part in row.name.split("/")]
    return re.sub(r"\W", "_", "_".join(["orchestrator", *(part for part in parts if part)]))


def _bind(address: str, page: MetricsPage) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.text().encode() if self.path == PATH else b""
            self.send_response(200 if self.path == PATH else 404)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    host, _, port = address.rpartition(":")
    try:
        return ThreadingHTTPServer((host, int(port)), Handler)
    except (OSError, OverflowError) as error:
        raise PlanError(
            f"tracking.metrics_address: {address} cannot be bound ({error}); wanted a free HOST:PORT of this machine"
        ) from error


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
