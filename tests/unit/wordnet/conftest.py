"""NLTK over Debian's WordNet 3.0: the reference that the packaged table and the labeller are compared with."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nltk
import pytest

DEBIAN_WORDNET = Path("/usr/share/wordnet")
BUILD_SCRIPT = Path(__file__).parents[3] / "scripts" / "build_wordnet_table.py"


@pytest.fixture(scope="session")
def build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_wordnet_table", BUILD_SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nltk_dir(build_script, tmp_path_factory) -> Iterator[Path]:
    """A folder of NLTK data that holds WordNet and nothing else; NLTK reads from it."""
    if not (DEBIAN_WORDNET / "data.noun").exists():
        pytest.skip("needs the Debian package wordnet-base (apt-get install wordnet-base)")
    folder = tmp_path_factory.mktemp("nltk_data")
    build_script.lay_nltk_data(DEBIAN_WORDNET, folder)
    paths_before = list(nltk.data.path)
    nltk.data.path[:] = [str(folder)]
    yield folder
    nltk.data.path[:] = paths_before


@pytest.fixture(scope="session")
def reference(nltk_dir):
    """NLTK's WordNet reader."""
    from nltk.corpus import wordnet

    wordnet.ensure_loaded()
    return wordnet
