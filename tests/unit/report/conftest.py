"""One comparison over real test images, for all that reads it."""

from pathlib import Path

import pytest

from report_example import write_example


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a comparison of three objectives with three replicates each."""
    return write_example(tmp_path_factory.mktemp("report"))


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    """Where a page may go."""
    return tmp_path / "report.html"
