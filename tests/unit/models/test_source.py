"""Models of other programs are recognised by their names and shapes, and see here what they see there."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel

import corenet_layout
from corenet_layout import Projection, TextTower, Vit, shake
from foreign import (
    CONTEXT,
    IMAGE_SIZE,
    NUM_LAYERS,
    PATCH,
    WIDTH,
    noise_images,
    save_clip,
    small_clip,
    small_siglip,
    small_tokenizer,
)
from orchestrator.errors import ModelSourceError
from orchestrator.models.layouts.corenet import to_corenet
from orchestrator.models.layouts.open_clip import CONFIG_FILE, WEIGHTS_FILE, from_open_clip, to_open_clip
from orchestrator.models.layouts.open_clip_siglip import to_open_clip_siglip
from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.source import read_model
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.adopt import adopt_weights, names_in_a_model
from orchestrator.objectives.clip import ClipObjective
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.presets import PRESETS, VARIANTS, ModelSize, TransformerSize

NUM_TOKENS, NUM_CONCEPTS = 50, 7
TOKENS = TokenLayout(num_tokens=NUM_TOKENS, context=CONTEXT, begin_id=48, end_id=49, pad_id=0)
NANO = PRESETS["vit_nano_32"]


@pytest.fixture(scope="module")
def open_clip_state() -> dict[str, Tensor]:
    return to_open_clip(small_clip(small_tokenizer()).state_dict())


def save_pt(state: dict[str, Tensor], folder: Path) -> str:
    torch.save(state, folder / "weights.pt")
    return str(folder / "weights.pt")


def build(kind: str, size: ModelSize = NANO, variant: str = "corenet", image_size: int = IMAGE_SIZE) -> Objective:
    model = ModelBuild(size, image_size, seed=0, tokens=TOKENS, variant=VARIANTS[variant])
    spec = ClipSpec(name="clip") if kind == "clip" else CatlipSpec(name="catlip")
    return build_objective(spec, model, torch.full((NUM_CONCEPTS,), 0.2).double().numpy()).eval()


def filled(objective: Objective, path: str) -> Objective:
    weights = adopt_weights(objective, read_model(path).state, path)
    objective.load_state_dict(objective.state_dict() | weights)
    return objective


def vit(
    head: nn.Module, patch: int = PATCH, width: int = WIDTH, image_size: int = IMAGE_SIZE, flash: bool = False
) -> Vit:
    return Vit(image_size, patch, width, NUM_LAYERS, 2, head, flash)


def test_open_clips_names_there_and_back_are_the_same_bits(open_clip_state: dict[str, Tensor]) -> None:
    ours, unknown = from_open_clip(open_clip_state)
    assert not unknown
    back = to_open_clip(ours)
    assert back.keys() == open_clip_state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in open_clip_state.items())
    assert back["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (3 * WIDTH, WIDTH)


def test_a_text_tower_that_open_clip_keeps_apart_is_the_same(
    tmp_path: Path, open_clip_state: dict[str, Tensor]
) -> None:
    apart = {
        name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}": tensor
        for name, tensor in open_clip_state.items()
    }
    ours = read_model(save_pt(apart, tmp_path)).state
    assert all(torch.equal(ours[name], tensor) for name, tensor in from_open_clip(open_clip_state)[0].items())


def test_openais_archives_are_known_by_the_numbers_beside_their_weights(
    tmp_path: Path, open_clip_state: dict[str, Tensor]
) -> None:
    numbers = {"input_resolution": 32, "context_length": CONTEXT, "vocab_size": 289}
    state = {name: tensor.half() for name, tensor in open_clip_state.items()}
    model = read_model(save_pt(state | {name: torch.tensor(value) for name, value in numbers.items()}, tmp_path))
    assert (model.variant, model.preset, model.image_size, model.context) == ("openai", "vit_nano_32", 32, CONTEXT)
    assert all(tensor.dtype == torch.float32 for tensor in model.state.values())


@torch.no_grad()
@pytest.mark.parametrize("flash", [False, True])
def test_corenets_classifier_sees_here_what_it_sees_there(tmp_path: Path, flash: bool) -> None:
    theirs = shake(vit(nn.Linear(WIDTH, NUM_CONCEPTS), flash=flash))
    path = save_pt({"model_state_dict": theirs.state_dict()}, tmp_path)
    ours = filled(build("catlip"), path)
    pixels = normalize_pixels(noise_images(), VARIANTS["corenet"].pixels)
    torch.testing.assert_close(ours.vision_features(noise_images()), theirs.features(pixels), atol=1e-5, rtol=1e-5)
    weight, bias = ours.concept_classifier()
    logits = ours.vision_features(noise_images()) @ weight.T + bias
    torch.testing.assert_close(logits, theirs(pixels), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_corenets_stem_of_patches_of_16_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ModelSize(64, 16, TransformerSize(160, 2, 2), TransformerSize(32, 2, 2), 32)
    monkeypatch.setitem(PRESETS, "vit_other_16", size)
    theirs = shake(vit(nn.Linear(160, NUM_CONCEPTS), patch=16, width=160, image_size=64))
    path = save_pt(theirs.state_dict(), tmp_path)
    model = read_model(path)
    assert (model.preset, model.variant, model.image_size) == ("vit_other_16", "corenet", 64)
    ours = filled(build("catlip", size, image_size=64), path)
    images = torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = theirs.features(normalize_pixels(images, VARIANTS["corenet"].pixels))
    torch.testing.assert_close(ours.vision_features(images), expected, atol=5e-5, rtol=1e-5)


@torch.no_grad()
def test_corenets_clip_sees_and_reads_here_what_it_does_there(tmp_path: Path) -> None:
    text = TextTower(NUM_TOKENS, CONTEXT, WIDTH, NUM_LAYERS, 2, WIDTH)
    theirs = shake(corenet_layout.Clip(vit(Projection(WIDTH, WIDTH)), text))
    ours = filled(build("clip"), save_pt(theirs.state_dict(), tmp_path))
    assert isinstance(ours, ClipObjective)
    pixels = normalize_pixels(noise_images(), VARIANTS["corenet"].pixels)
    torch.testing.assert_close(ours.image_embedding(noise_images()), theirs.image_encoder(pixels), atol=1e-5, rtol=1e-5)
    tokens = torch.zeros(2, CONTEXT, dtype=torch.int64)
    tokens[:, :4] = torch.tensor([[48, 5, 6, 49], [48, 7, 49, 0]])
    torch.testing.assert_close(ours.text_embedding(tokens), theirs.text_encoder(tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logit_scale, theirs.logit_scale.reshape(1))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["catlip", "clip"])
def test_corenet_opens_what_was_made_here_and_it_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    """Random weights everywhere, a position of the class token among them, which corenet has not."""
    ours = shake(build(kind))
    state = {names_in_a_model(name)[0]: tensor for name, tensor in ours.state_dict().items()}
    converted, left = to_corenet(state)
    assert not left
    text = TextTower(NUM_TOKENS, CONTEXT, WIDTH, NUM_LAYERS, 2, WIDTH)
    tower = vit(nn.Linear(WIDTH, NUM_CONCEPTS), flash=True)
    theirs = tower if kind == "catlip" else corenet_layout.Clip(vit(Projection(WIDTH, WIDTH)), text)
    theirs.load_state_dict(converted)
    encoder = theirs.eval() if isinstance(theirs, Vit) else theirs.eval().image_encoder
    pixels = normalize_pixels(noise_images(), VARIANTS["corenet"].pixels)
    torch.testing.assert_close(encoder.features(pixels), ours.vision_features(noise_images()), atol=1e-5, rtol=1e-5)
    back = filled(build(kind), save_pt(converted, tmp_path))
    assert torch.equal(back.vision_features(noise_images()), ours.vision_features(noise_images()))
    again, _ = to_corenet({names_in_a_model(name)[0]: tensor for name, tensor in back.state_dict().items()})
    assert all(torch.equal(again[name], tensor) for name, tensor in converted.items())


def test_a_tower_of_another_family_is_refused_by_its_keys(tmp_path: Path, open_clip_state: dict[str, Tensor]) -> None:
    with pytest.raises(ModelSourceError, match=r"no tower here has a place for visual\.layer1\.0\.conv1\.weight"):
        read_model(save_pt(open_clip_state | {"visual.layer1.0.conv1.weight": torch.ones(1)}, tmp_path))
    with pytest.raises(ModelSourceError, match=r"wanted the names of open_clip.*; found fc\.weight"):
        read_model(save_pt({"fc.weight": torch.ones(1)}, tmp_path))


def test_a_siglip_of_another_kind_is_refused_by_its_keys(tmp_path: Path) -> None:
    state = to_open_clip_siglip(small_siglip(20).state_dict())
    assert read_model(save_pt(state, tmp_path)).has_siglip_towers
    odd = {"visual.trunk.blocks.0.ls1.gamma": torch.ones(1), "visual.trunk.attn_pool.q_norm.weight": torch.ones(1)}
    with pytest.raises(ModelSourceError, match=r"no tower here has a place for .*ls1\.gamma, .*q_norm\.weight"):
        read_model(save_pt(state | odd, tmp_path))


def test_weights_that_do_not_fit_name_the_keys(tmp_path: Path, open_clip_state: dict[str, Tensor]) -> None:
    lacking = {name: tensor for name, tensor in open_clip_state.items() if "ln_post" not in name}
    path = save_pt(lacking, tmp_path)
    with pytest.raises(ModelSourceError, match=r"vision\.vision_model\.post_layernorm\.weight is missing"):
        filled(build("clip", variant="clip"), path)
    path = save_pt(open_clip_state, tmp_path)
    with pytest.raises(
        ModelSourceError, match=r"text_model\.embeddings\.token_embedding\.weight is \[289, 32\], wanted \[50, 32\]"
    ):
        filled(build("clip", variant="clip"), path)
    tower = {name: tensor for name, tensor in read_model(path).state.items() if name.startswith("vision_model.")}
    head = {"classifier.weight": torch.zeros(NUM_CONCEPTS, WIDTH), "classifier.bias": torch.zeros(NUM_CONCEPTS)}
    with pytest.raises(ModelSourceError, match=r"logit_scale has no place"):
        adopt_weights(build("catlip", variant="clip"), tower | head | {"logit_scale": torch.ones(())}, path)


def test_a_size_that_no_preset_has_is_said_with_its_numbers(tmp_path: Path, open_clip_state: dict[str, Tensor]) -> None:
    deeper = dict(open_clip_state)
    for name, tensor in open_clip_state.items():
        deeper[name.replace("visual.transformer.resblocks.1.", "visual.transformer.resblocks.2.")] = tensor
    with pytest.raises(ModelSourceError, match=r"no preset has its sizes \(patch size 8.*vision layers 3"):
        read_model(save_pt(deeper, tmp_path))


def save_open_clip(folder: Path, state: dict[str, Tensor], **changes: object) -> str:
    """A ``local-dir:`` whose configuration says as little as open_clip needs; ``changes``: by ``part__key``."""
    sizes = {"width": WIDTH, "layers": NUM_LAYERS}
    model: dict[str, dict[str, object]] = {
        "vision_cfg": {**sizes, "image_size": IMAGE_SIZE, "patch_size": PATCH, "head_width": WIDTH // 2},
        "text_cfg": {**sizes, "context_length": CONTEXT, "vocab_size": 289, "heads": 2},
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        model[part][key] = value
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": {"embed_dim": WIDTH, **model}, "preprocess_cfg": {}}))
    save_file(state, folder / WEIGHTS_FILE)
    return str(folder)


def test_a_configuration_of_the_towers_that_are_here_is_taken(
    tmp_path: Path, open_clip_state: dict[str, Tensor]
) -> None:
    assert read_model(save_open_clip(tmp_path, open_clip_state)).preset == "vit_nano_32"
    said = {"vision_cfg__pool_type": "tok", "vision_cfg__patch_dropout": 0.5, "text_cfg__norm_kwargs": {"eps": 1e-5}}
    assert read_model(save_open_clip(tmp_path, open_clip_state, **said)).preset == "vit_nano_32"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vision_cfg__pool_type", "avg", r"vision_cfg\.pool_type is 'avg', supported: 'tok'"),
        ("vision_cfg__act_kwargs", {"approximate": "tanh"}, r"act_kwargs is {'approximate': 'tanh'}, supported: None"),
        ("vision_cfg__no_ln_pre", True, r"vision_cfg\.no_ln_pre is True, supported: False"),
        ("text_cfg__no_causal_mask", True, r"text_cfg\.no_causal_mask is True, supported: False"),
        ("text_cfg__pool_type", "last", r"text_cfg\.pool_type is 'last', supported: 'argmax', 'eos'"),
        ("text_cfg__norm_kwargs", {"eps": 1e-6}, r"text_cfg\.norm_kwargs is {'eps': 1e-06}, supported: None"),
        ("vision_cfg__mixture", 8, r"vision_cfg\.mixture is not known with these towers"),
    ],
)
def test_a_configuration_of_other_towers_is_refused_by_its_keys(
    tmp_path: Path, open_clip_state: dict[str, Tensor], name: str, value: object, message: str
) -> None:
    with pytest.raises(ModelSourceError, match=message):
        read_model(save_open_clip(tmp_path, open_clip_state, **{name: value}))


def test_a_siglip_without_what_makes_it_one_is_refused(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in to_open_clip_siglip(small_siglip(20).state_dict()).items()}
    with pytest.raises(ModelSourceError, match=r"timm_pool is absent, supported: 'map'; .*text_cfg\.no_causal_mask"):
        read_model(save_open_clip(tmp_path, state))


def test_other_pixels_than_the_towers_are_built_for_are_refused(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    folder = save_clip(small_clip(tokenizer), tokenizer, tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    with pytest.raises(ModelSourceError, match=r"images have mean \[0\.5, 0\.5, 0\.5\]"):
        read_model(str(folder))


def test_a_folder_without_weights_and_a_name_that_nobody_has_are_said(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"the folder holds nothing"):
        read_model(str(tmp_path))
    with pytest.raises(ModelSourceError, match=r"no such file or folder here, and the .* hub did not give it"):
        read_model("nobody/has-this")


def test_a_tower_saved_alone_is_read_as_what_it_is(tmp_path: Path) -> None:
    CLIPModel(small_clip(small_tokenizer()).config).vision_model.save_pretrained(tmp_path)
    model = read_model(str(tmp_path))
    assert (model.preset, model.num_tokens, model.context) == ("vit_nano_32", None, None)
    save_file(model.state, tmp_path / "again.safetensors")
    assert read_model(str(tmp_path / "again.safetensors"), variant="clip").state.keys() == model.state.keys()
