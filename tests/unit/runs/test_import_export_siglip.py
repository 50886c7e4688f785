"""SigLIP's weights go in and out: each folder opens in the library it is for, and says there what it says here."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from foreign import CONTEXT, save_siglip
from imported import features_here, features_in_open_clip, features_in_transformers, run_uri, weights_of
from orchestrator.errors import ModelSourceError
from orchestrator.models.layouts import open_clip_siglip
from orchestrator.models.layouts.open_clip import WEIGHTS_FILE
from orchestrator.models.source import HEAD_FILE
from orchestrator.runs.export import export_run
from orchestrator.runs.import_weights import import_weights
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.objective import SiglipSpec


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSpec) -> Path:
    """A Hugging Face SigLIP, which is also the run ``siglip``."""
    folder = tmp_path_factory.mktemp("siglip")
    save_siglip(folder)
    import_weights(str(folder), "siglip", cluster)
    return folder


@pytest.fixture
def nano_in_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm knows towers by name; this one is registered by tests/shared/open_clip_peer.py."""
    monkeypatch.setitem(open_clip_siglip.TIMM_TOWERS, (8, 32), ("vit_nano_patch8_siglip", (32,)))


def test_a_hugging_face_siglip_goes_in_and_out_bit_for_bit_and_sees_the_same(
    tmp_path: Path, cluster: ClusterSpec, siglip_folder: Path
) -> None:
    made = import_weights(str(siglip_folder), "siglip-in", cluster)
    assert made.plan.objective == SiglipSpec(name="siglip")
    assert (made.plan.model.variant, made.plan.model.preset, made.plan.model.context) == ("siglip", "vit_nano_32", 16)
    export_run(run_uri(cluster, "siglip-in"), str(tmp_path / "export"), cluster)
    first, back = SiglipModel.from_pretrained(siglip_folder), SiglipModel.from_pretrained(tmp_path / "export")
    assert back.config.vision_config.hidden_act == back.config.text_config.hidden_act == "gelu_pytorch_tanh"
    for name, tensor in first.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    here, there = features_here(cluster, "siglip-in"), features_in_transformers(tmp_path / "export", SiglipModel)
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        assert torch.pdist(ours).min() > 1e-3


def test_captions_reach_it_as_siglips_tokenizer_makes_them(
    tmp_path: Path, cluster: ClusterSpec, siglip_folder: Path
) -> None:
    export_run(run_uri(cluster, "siglip"), str(tmp_path / "export"), cluster)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    ids = tokenizer(["A RED cube,  on (a) table!"], padding="max_length").input_ids[0]
    plain = Tokenizer.from_file(str(siglip_folder / "tokenizer.json")).encode("a red cube on a table").ids
    assert plain[-1] == 1
    assert ids == plain + [1] * (CONTEXT - len(plain))


def test_open_clip_opens_a_siglip_and_sees_the_same(
    tmp_path: Path, cluster: ClusterSpec, siglip_folder: Path, nano_in_timm: None
) -> None:
    export_run(run_uri(cluster, "siglip"), str(tmp_path / "export"), cluster, format="open_clip")
    there = features_in_open_clip(tmp_path / "export", tmp_path)
    for name, here in zip(("image", "text"), features_here(cluster, "siglip"), strict=True):
        # timm's model of the test computes GELU by way of tanh too
        torch.testing.assert_close(there[name], here, atol=1e-5, rtol=0)


def test_what_was_exported_for_open_clip_comes_back_bit_for_bit(
    tmp_path: Path, cluster: ClusterSpec, siglip_folder: Path, nano_in_timm: None
) -> None:
    export_run(run_uri(cluster, "siglip"), str(tmp_path / "export"), cluster, format="open_clip")
    made = import_weights(str(tmp_path / "export"), "siglip-again", cluster)
    assert made.plan.objective == SiglipSpec(name="siglip")
    assert (made.plan.model.preset, made.plan.model.variant) == ("vit_nano_32", "siglip")
    alone = str(tmp_path / "export" / WEIGHTS_FILE)
    lone = import_weights(alone, "siglip-lone", cluster, tokenizer=str(tmp_path / "export"))
    assert lone.plan.model.variant == "siglip"
    first = weights_of(cluster, "siglip")
    for name in ("siglip-again", "siglip-lone"):
        again = weights_of(cluster, name)
        assert first.keys() == again.keys()
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert torch.equal(features_here(cluster, name)[1], features_here(cluster, "siglip")[1])


def test_a_clip_that_siglips_loss_trained_keeps_its_bias_in_both_formats(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path
) -> None:
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path / "foreign")
    for file in clip_folder.glob("tokenizer*"):
        (tmp_path / "foreign" / file.name).write_bytes(file.read_bytes())
    save_file({"logit_bias": torch.tensor([-7.0])}, tmp_path / "foreign" / HEAD_FILE)
    made = import_weights(str(tmp_path / "foreign"), "biased", cluster)
    assert made.plan.objective == SiglipSpec(name="siglip", towers="clip")
    export_run(run_uri(cluster, "biased"), str(tmp_path / "huggingface"), cluster)
    assert load_file(tmp_path / "huggingface" / HEAD_FILE)["logit_bias"].item() == -7
    export_run(run_uri(cluster, "biased"), str(tmp_path / "open_clip"), cluster, format="open_clip")
    again = import_weights(str(tmp_path / "open_clip"), "biased-again", cluster)
    assert again.plan.objective == made.plan.objective
    assert weights_of(cluster, "biased-again")["logit_bias"].item() == -7
    config = json.loads((tmp_path / "open_clip" / "open_clip_config.json").read_text())
    assert "init_logit_bias" in config["model_cfg"]
    there = features_in_open_clip(tmp_path / "open_clip", tmp_path)
    torch.testing.assert_close(there["text"], features_here(cluster, "biased")[1], atol=1e-5, rtol=0)


def test_a_tower_that_timm_has_no_name_for_is_refused_in_open_clips_format(
    tmp_path: Path, cluster: ClusterSpec, siglip_folder: Path
) -> None:
    with pytest.raises(ModelSourceError, match=r"width 32 with patches of 8 not at all, .*--format huggingface"):
        export_run(run_uri(cluster, "siglip"), str(tmp_path / "no"), cluster, format="open_clip")


def test_timms_other_gelu_is_said(
    tmp_path: Path,
    cluster: ClusterSpec,
    siglip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(open_clip_siglip.TIMM_TOWERS, (8, 32), ("vit_other_patch8_siglip", (32,)))
    with caplog.at_level(logging.WARNING):
        export_run(run_uri(cluster, "siglip"), str(tmp_path / "export"), cluster, format="open_clip")
    assert "vit_other_patch8_siglip_32 computes GELU exactly" in caplog.text
