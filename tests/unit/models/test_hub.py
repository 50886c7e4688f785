"""Models by their name on the Hugging Face hub: here, of a server that answers as the hub does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from foreign import save_clip, small_clip, small_tokenizer
from model_hub import ModelHub, serve_hub
from orchestrator.errors import ModelSourceError
from orchestrator.models.source import read_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    tokenizer = small_tokenizer()
    model = small_clip(tokenizer)
    for name in ("both", "old"):
        torch.save(model.state_dict(), save_clip(model, tokenizer, tmp_path / name) / "pytorch_model.bin")
    (tmp_path / "old" / "model.safetensors").unlink()
    with serve_hub({f"someone/{name}": tmp_path / name for name in ("both", "old")}) as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.mark.parametrize(("name", "weights"), [("both", "model.safetensors"), ("old", "pytorch_model.bin")])
def test_weights_are_fetched_in_one_form(hub: ModelHub, tmp_path: Path, name: str, weights: str) -> None:
    model = read_model(f"someone/{name}")
    assert [file for file in hub.downloaded if file.endswith((".safetensors", ".bin"))] == [weights]
    wanted = read_model(str(tmp_path / name))
    assert model.state.keys() == wanted.state.keys()
    assert all(torch.equal(model.state[key], wanted.state[key]) for key in wanted.state)


def test_what_was_fetched_once_is_read_without_the_hub(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_model("someone/old")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = read_model("someone/old")
    assert torch.equal(first.state["logit_scale"], again.state["logit_scale"])
    with pytest.raises(ModelSourceError, match=r"someone/both: no such file or folder here, and the .* hub did not"):
        read_model("someone/both")
