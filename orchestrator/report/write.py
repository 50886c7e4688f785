"""Writes a comparison's page."""

from pathlib import Path

from orchestrator.report.contents import Contents, read_contents
from orchestrator.report.page import render_page
from orchestrator.spec.cluster import S3Spec
from orchestrator.storage.store import open_store

REPORT_FILE = "report.html"


def write_report(comparison_uri: str, s3: S3Spec, destination: str | None = None) -> tuple[Contents, str]:
    """Write the page of a comparison; returns what stands on it, and the page.

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
    return contents, page
