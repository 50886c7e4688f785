"""A folder of `transformers`: what its configuration says of the towers counts; weights may lie in several files."""

import json
from pathlib import Path

import pytest
import torch

from foreign import save_clip, small_clip, small_siglip, small_tokenizer
from orchestrator.errors import ModelSourceError
from orchestrator.models.source import read_model

INDEX = "model.safetensors.index.json"


def save_changed(folder: Path, is_siglip: bool = False, **changes: object) -> str:
    """``changes``: of its configuration, by ``part__key``."""
    tokenizer = small_tokenizer()
    if is_siglip:
        small_siglip(20).save_pretrained(folder)
    else:
        save_clip(small_clip(tokenizer), tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        part, _, key = name.partition("__")
        config[part][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vision_config__hidden_act": "relu", "text_config__hidden_act": "relu"},
            r"vision_config\.hidden_act is 'relu', supported: 'gelu', 'quick_gelu'; text_config\.hidden_act is 'relu'",
        ),
        ({"vision_config__hidden_act": "gelu_pytorch_tanh"}, r"vision_config\.hidden_act is 'gelu_pytorch_tanh'"),
        ({"text_config__hidden_act": "quick_gelu"}, r"text_config\.hidden_act is 'quick_gelu', supported: 'gelu'$"),
        ({"vision_config__layer_norm_eps": 1e-3}, r"vision_config\.layer_norm_eps is 0\.001, supported: 1e-05$"),
        ({"text_config__layer_norm_eps": 1e-6}, r"text_config\.layer_norm_eps is 1e-06, supported: 1e-05$"),
    ],
)
def test_towers_that_compute_otherwise_are_refused_by_their_keys(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelSourceError, match=message):
        read_model(save_changed(tmp_path, **changes))


def test_siglips_norms_are_its_own(tmp_path: Path) -> None:
    assert read_model(save_changed(tmp_path / "one", is_siglip=True)).variant == "siglip"
    both = {"vision_config__hidden_act": "gelu", "text_config__hidden_act": "gelu"}
    assert read_model(save_changed(tmp_path / "two", is_siglip=True, **both)).variant == "clip"
    with pytest.raises(ModelSourceError, match=r"vision_config\.layer_norm_eps is 1e-05, supported: 1e-06"):
        read_model(save_changed(tmp_path / "three", is_siglip=True, vision_config__layer_norm_eps=1e-5))


def save_in_parts(folder: Path) -> Path:
    small_clip(small_tokenizer()).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder / INDEX


def test_weights_in_several_files_are_one_model(tmp_path: Path) -> None:
    save_in_parts(tmp_path)
    state = small_clip(small_tokenizer()).state_dict()
    model = read_model(str(tmp_path))
    assert all(torch.equal(model.state[name], tensor) for name, tensor in state.items())


def test_an_index_that_does_not_hold_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    index = save_in_parts(tmp_path)
    content = json.loads(index.read_text())
    for place, message in (
        ({"logit_scale": "model-00001-of-00001.safetensors"}, r"model-00001-of-00001\.safetensors is not there"),
        ({"logit_scale": "../elsewhere.safetensors"}, r"\.\./elsewhere\.safetensors is not there"),
        ({"logit_bias": content["weight_map"]["logit_scale"]}, r"names logit_bias, which is not in model-0"),
    ):
        index.write_text(json.dumps({"weight_map": content["weight_map"] | place}))
        with pytest.raises(ModelSourceError, match=message):
            read_model(str(tmp_path))
    for text in ("[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": 3}', "not JSON"):
        index.write_text(text)
        with pytest.raises(ModelSourceError, match=r"not an index of weights|is not there"):
            read_model(str(tmp_path))
