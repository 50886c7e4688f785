"""Writes a comparison's page, and hands it to MLflow."""

import logging
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.report.contents import Contents, read_contents
from orchestrator.report.page import render_page
from orchestrator.spec.cluster import S3Spec
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.artifacts import log_page

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"


def write_report(comparison_uri: str, s3: S3Spec, destination: str | None = None) -> Contents:
    """Write the page of a comparison, and log it as an artifact of the comparison's run in MLflow, if it has one.

    A server that is away costs the artifact only, and is said.

    Args:
        destination: a local file; none: ``report.html`` in the comparison's folder.

    Raises:
        RunNotFoundError: no comparison there.
        TrackingError: a record of one that cannot be read.
        StorageAccessError: the page cannot be written.
    """
    contents = read_contents(comparison_uri, s3)
    page = render_page(contents)
    folder, name = (comparison_uri, REPORT_FILE)
    if destination is not None:
        target = Path(destination).expanduser().absolute()
        folder, name = str(target.parent), target.name
    open_store(folder, s3).write_bytes(name, page.encode())
    comparison = contents.comparison
    if comparison.mlflow_run_id is not None:
        try:
            log_page(comparison.tracking_uri, comparison.mlflow_run_id, REPORT_FILE, page)
        except TrackingError as error:
            logger.warning("the report is not in MLflow: %s", error)
    return contents
