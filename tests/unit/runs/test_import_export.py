"""Weights go in and out: each folder opens in the library it is for, and says there what it says here."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, CLIPModel

from corenet_layout import Vit, shake
from foreign import IMAGE_SIZE, NUM_LAYERS, PATCH, WIDTH, save_clip, small_clip
from imported import features_here, features_in_open_clip, features_in_transformers, run_uri, weights_of
from orchestrator.data.tokens import CaptionTokenizer
from orchestrator.errors import ModelSourceError, RunConflictError, StorageAccessError
from orchestrator.models.layouts.open_clip import to_open_clip
from orchestrator.models.source import HEAD_FILE
from orchestrator.runs.export import export_run
from orchestrator.runs.import_weights import import_weights
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import FinderFacts
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.finder import build_finder
from orchestrator.wordnet.tagger import Tagger
from orchestrator.wordnet.vocabulary import Vocabulary
from tagger_file import tagger_file


def save_catlip(folder: Path, clip_folder: Path, finder: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A vision tower of `transformers`, the classifier beside it, and whose rows it has: dog, cat, car."""
    tower = CLIPModel.from_pretrained(clip_folder).vision_model
    tower.save_pretrained(folder)
    vocabulary = Vocabulary((2084071, 2121620, 2958343), (30, 20, 10), num_captions=100, min_count=5, finder=finder)
    (folder / "concepts.parquet").write_bytes(vocabulary.to_bytes(packaged_finder().table))
    head = {"classifier.weight": torch.randn(3, tower.config.hidden_size), "classifier.bias": torch.randn(3)}
    save_file(head, folder / HEAD_FILE)
    return tower, head


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_hugging_face_model_goes_in_and_out_bit_for_bit_and_sees_the_same(
    tmp_path: Path,
    cluster: ClusterSpec,
    tokenizer: CaptionTokenizer,
    activation: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = small_clip(tokenizer, activation)
    made = import_weights(str(save_clip(model, tokenizer, tmp_path / "foreign")), f"in-{activation}", cluster)
    assert made.plan.model.variant == {"gelu": "clip", "quick_gelu": "openai"}[activation]
    capfd.readouterr()
    export_run(run_uri(cluster, f"in-{activation}"), str(tmp_path / "export"), cluster)
    assert "Writing model shards" not in capfd.readouterr().err
    back = CLIPModel.from_pretrained(tmp_path / "export")
    assert back.config.vision_config.hidden_act == activation
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    for here, there in zip(
        features_here(cluster, f"in-{activation}"), features_in_transformers(tmp_path / "export"), strict=True
    ):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=0)
        assert torch.pdist(here).min() > 1e-3


def test_open_clip_opens_an_export_and_sees_the_same(
    tmp_path: Path, cluster: ClusterSpec, tokenizer: CaptionTokenizer
) -> None:
    folder = save_clip(small_clip(tokenizer, "quick_gelu"), tokenizer, tmp_path / "foreign")
    import_weights(str(folder), "for-open-clip", cluster)
    export_run(run_uri(cluster, "for-open-clip"), str(tmp_path / "export"), cluster, format="open_clip")
    there = features_in_open_clip(tmp_path / "export", tmp_path)
    image, text = features_here(cluster, "for-open-clip")
    torch.testing.assert_close(there["image"], image, atol=1e-5, rtol=0)
    torch.testing.assert_close(there["text"], text, atol=1e-5, rtol=0)


def test_what_was_exported_for_open_clip_comes_back_bit_for_bit(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path
) -> None:
    import_weights(str(clip_folder), "round-one", cluster)
    export_run(run_uri(cluster, "round-one"), str(tmp_path / "export"), cluster, format="open_clip")
    made = import_weights(str(tmp_path / "export"), "round-two", cluster)
    assert made.plan.model.preset == "vit_nano_32"
    first, second = weights_of(cluster, "round-one"), weights_of(cluster, "round-two")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for one, two in zip(features_here(cluster, "round-one"), features_here(cluster, "round-two"), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_of_open_clips_training_is_read(tmp_path: Path, cluster: ClusterSpec, clip_folder: Path) -> None:
    state = to_open_clip(CLIPModel.from_pretrained(clip_folder).state_dict())
    wrapped = {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(wrapped, tmp_path / "epoch_3.pt")
    made = import_weights(
        str(tmp_path / "epoch_3.pt"), "from-training", cluster, tokenizer=str(clip_folder), variant="openai"
    )
    assert made.plan.model.variant == "openai"
    assert made.plan.origin == f"imported from {tmp_path / 'epoch_3.pt'}"
    import_weights(str(clip_folder), "plain", cluster)
    plain = weights_of(cluster, "plain")
    assert all(torch.equal(tensor, plain[name]) for name, tensor in weights_of(cluster, "from-training").items())


def test_a_name_that_is_taken_is_refused(cluster: ClusterSpec, clip_folder: Path) -> None:
    import_weights(str(clip_folder), "taken", cluster)
    with pytest.raises(RunConflictError, match="run 'taken' is there already"):
        import_weights(str(clip_folder), "taken", cluster)


def test_a_destination_that_no_export_can_have_is_refused_and_left_alone(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    import_weights(str(clip_folder), "nowhere-to-go", cluster)
    (tmp_path / "file").write_text("keep")
    for destination, said in (
        ("s3://bucket/export", "s3://bucket/export is a URI"),
        ("file", "Not a directory"),
        ("file/export", "File exists"),
        ("/proc/nowhere/export", "/proc/nowhere"),
        (".", "is not empty"),
    ):
        with pytest.raises(StorageAccessError, match=said):
            export_run(run_uri(cluster, "nowhere-to-go"), destination, cluster)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "keep"


def test_a_vision_tower_alone_is_refused_as_a_finished_model(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path
) -> None:
    CLIPModel.from_pretrained(clip_folder).vision_model.save_pretrained(tmp_path / "tower")
    with pytest.raises(ModelSourceError, match=r"start a job from it instead"):
        import_weights(str(tmp_path / "tower"), "tower", cluster)


def test_a_tokenizer_is_named_where_none_lies_beside_the_weights(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path
) -> None:
    torch.save(to_open_clip(CLIPModel.from_pretrained(clip_folder).state_dict()), tmp_path / "lone.pt")
    with pytest.raises(ModelSourceError, match=r"brings no tokenizer.*--tokenizer"):
        import_weights(str(tmp_path / "lone.pt"), "lone", cluster)


def test_a_corenet_model_goes_in_and_out_bit_for_bit(tmp_path: Path, cluster: ClusterSpec) -> None:
    theirs = shake(Vit(IMAGE_SIZE, PATCH, WIDTH, NUM_LAYERS, 2, nn.Linear(WIDTH, 3), flash=True))
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    (tmp_path / "vocab.json").write_text(json.dumps({"n2084071": 30, "n2121620": 20, "n2958343": 10}))
    import_weights(str(tmp_path / "vit.pt"), "corenet-in", cluster, vocabulary=str(tmp_path / "vocab.json"))
    export = tmp_path / "export"
    export_run(run_uri(cluster, "corenet-in"), str(export), cluster, format="corenet")
    names = {"concepts.parquet", "corenet.safetensors", "plan.json", "preprocessor_config.json"}
    assert {file.name for file in export.iterdir()} == names
    written = load_file(export / "corenet.safetensors")
    assert {name: tensor.shape for name, tensor in written.items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    import_weights(str(export), "corenet-again", cluster)
    first, again = weights_of(cluster, "corenet-in"), weights_of(cluster, "corenet-again")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    with pytest.raises(ModelSourceError, match=r"variant 'corenet' has a stem of convolutions.*use --format corenet"):
        export_run(run_uri(cluster, "corenet-in"), str(tmp_path / "no"), cluster)


def test_another_tower_is_refused_in_corenets_format(tmp_path: Path, cluster: ClusterSpec, clip_folder: Path) -> None:
    import_weights(str(clip_folder), "no-corenet", cluster)
    with pytest.raises(ModelSourceError, match=r"corenet has towers of its own variant alone, not of 'clip'"):
        export_run(run_uri(cluster, "no-corenet"), str(tmp_path / "no"), cluster, format="corenet")


def test_a_catlip_model_goes_out_and_in_with_its_classifier_and_concepts(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path
) -> None:
    source = tmp_path / "catlip"
    tower, head = save_catlip(source, clip_folder, packaged_finder().version)
    made = import_weights(str(source), "catlip-in", cluster)
    assert (made.plan.objective.name, made.plan.model.preset) == ("catlip", "vit_nano_32")
    export_run(run_uri(cluster, "catlip-in"), str(tmp_path / "export"), cluster)
    back = AutoModel.from_pretrained(tmp_path / "export")
    assert all(torch.equal(tensor, tower.state_dict()[name]) for name, tensor in back.state_dict().items())
    assert load_file(tmp_path / "export" / HEAD_FILE).keys() == head.keys()
    import_weights(str(tmp_path / "export"), "catlip-again", cluster)
    first, again = weights_of(cluster, "catlip-in"), weights_of(cluster, "catlip-again")
    assert all(torch.equal(first[name], again[name]) for name in first)
    with pytest.raises(
        ModelSourceError, match=r"open_clip's format holds a CLIP or SigLIP, .*CLIPVisionModel with classifier"
    ):
        export_run(run_uri(cluster, "catlip-in"), str(tmp_path / "no"), cluster, format="open_clip")
    (source / "concepts.parquet").unlink()
    with pytest.raises(ModelSourceError, match=r"has a classifier but no concepts\.parquet.*--vocabulary"):
        import_weights(str(source), "catlip-without", cluster)


@pytest.mark.parametrize(("end_id", "said"), [(2, "their greatest token id"), (7, "token id 7")])
def test_captions_that_end_elsewhere_than_the_tokenizers_are_refused(
    tmp_path: Path, cluster: ClusterSpec, tokenizer: CaptionTokenizer, end_id: int, said: str
) -> None:
    folder = save_clip(small_clip(tokenizer), tokenizer, tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = end_id
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelSourceError, match=rf"pools captions at {said}, but the end token of its tokenizer is 1 "):
        import_weights(str(folder), f"ends-at-{end_id}", cluster)


def test_concepts_of_nouns_come_back_with_their_tagger(tmp_path: Path, cluster: ClusterSpec, clip_folder: Path) -> None:
    source, tagger = tmp_path / "nouns", tagger_file()
    save_catlip(source, clip_folder, build_finder("nouns", tagger=Tagger(tagger.read_bytes(), "tagger")).version)
    with pytest.raises(ModelSourceError, match=r"counted by mode 'nouns'; name its tagger in --tagger"):
        import_weights(str(source), "nouns-in", cluster)
    made = import_weights(str(source), "nouns-in", cluster, tagger=str(tagger))
    assert made.plan.model.vocabulary is not None
    assert made.plan.model.vocabulary.finder == FinderFacts(mode="nouns", noun_table=None, tagger=tagger.as_uri())
    export_run(run_uri(cluster, "nouns-in"), str(tmp_path / "export"), cluster)
    again = import_weights(str(tmp_path / "export"), "nouns-again", cluster, tagger=str(tagger))
    assert again.plan.model.vocabulary.digest == made.plan.model.vocabulary.digest


def test_concepts_of_another_finder_are_refused_with_what_names_it(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path
) -> None:
    source = tmp_path / "other"
    save_catlip(source, clip_folder, "corenet-2 2.0-0123456789ab")
    with pytest.raises(ModelSourceError, match=r"counted with 'corenet-2 2\.0-.*name .* in --noun-table"):
        import_weights(str(source), "other-in", cluster)
    with pytest.raises(ModelSourceError, match=r"counted by mode 'corenet'; leave --tagger out"):
        import_weights(str(source), "other-in", cluster, tagger="tagger.zip")
    assert not list(Path(cluster.storage.runs.removeprefix("file://")).glob("other-in/*"))
