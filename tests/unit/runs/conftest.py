"""A place for runs, and a small model of another program to fill them with."""

from pathlib import Path

import pytest

from foreign import save_clip, small_clip, small_tokenizer
from orchestrator.data.tokens import CaptionTokenizer
from orchestrator.spec.cluster import ClusterSpec


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    """One for all, so that MLflow's database is made once; each test names runs of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    storage = {"data": (folder / "data").as_uri(), "runs": (folder / "runs").as_uri()}
    workers = {"count": 1, "accelerator": "cpu"}
    return ClusterSpec.model_validate({"name": "here", "workers": workers, "storage": storage})


@pytest.fixture(scope="session")
def tokenizer() -> CaptionTokenizer:
    """Of a few captions."""
    return small_tokenizer()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: CaptionTokenizer) -> Path:
    """A Hugging Face CLIP."""
    return save_clip(small_clip(tokenizer), tokenizer, tmp_path_factory.mktemp("clip"))
