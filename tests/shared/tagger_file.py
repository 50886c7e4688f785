"""Where the tests find NLTK's tagger, which does not ship with the package."""

import os
from pathlib import Path

import pytest

_FOLDER = Path(os.environ.get("ORCHESTRATOR_NLTK_DATA", Path(__file__).parents[3] / "shared" / "nltk_data"))


def tagger_file() -> Path:
    """The tagger's file; the test is skipped where there is none."""
    file = _FOLDER / "taggers" / "averaged_perceptron_tagger_eng.zip"
    if not file.exists():
        pytest.skip(f"needs taggers/{file.name} in the folder that ORCHESTRATOR_NLTK_DATA names")
    return file
