"""Objectives start from weights that exist: what fits is taken over, a tower that does not fit is named."""

import math
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from foreign import CONTEXT, IMAGE_SIZE, save_clip, save_siglip, small_clip, small_tokenizer
from orchestrator.errors import ModelSourceError
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.init import InitSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec, SiglipSpec
from orchestrator.spec.plan import Plan, load_plan
from orchestrator.spec.presets import PRESETS, VARIANTS
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.local import LocalStore
from orchestrator.training.initial_weights import initialize_from
from orchestrator.training.made_checkpoint import write_checkpoint

NUM_CONCEPTS = 5


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, CLIPModel]:
    tokenizer = small_tokenizer()
    model = small_clip(tokenizer)
    return str(save_clip(model, tokenizer, tmp_path_factory.mktemp("clip"))), model


def plan_from(source: str, objective: str = "clip", **keys: object) -> Plan:
    job = {
        "kind": "pretrain",
        "name": "small",
        "objective": {"name": objective},
        "data": {"kind": "synthetic"},
        "model": {"preset": "vit_nano_32", "variant": "siglip" if objective == "siglip" else "clip"},
        "init": {"from": source, **keys},
        "batch": {"global_size": 8},
        "budget": {"steps": 1},
        "optimizer": {"learning_rate": 1e-3},
    }
    storage = {"data": "file:///data", "runs": "file:///runs"}
    cluster = {"name": "here", "workers": {"count": 1, "accelerator": "cpu"}, "storage": storage}
    facts = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="pillow"))
    return resolve_plan(PretrainSpec.model_validate(job), ClusterSpec.model_validate(cluster), facts)


def build(name: str, image_size: int = IMAGE_SIZE) -> Objective:
    tokens = TokenLayout(small_tokenizer().vocabulary_size, CONTEXT, begin_id=0, end_id=1, pad_id=2)
    spec = ClipSpec(name="clip") if name == "clip" else CatlipSpec(name="catlip")
    model = ModelBuild(PRESETS["vit_nano_32"], image_size, seed=5, tokens=tokens)
    return build_objective(spec, model, torch.full((NUM_CONCEPTS,), 0.2).double().numpy())


def build_siglip(image_size: int, num_tokens: int) -> Objective:
    tokens = TokenLayout(num_tokens, CONTEXT, begin_id=None, end_id=1, pad_id=1)
    model = ModelBuild(PRESETS["vit_nano_32"], image_size, seed=5, tokens=tokens, variant=VARIANTS["siglip"])
    return build_objective(SiglipSpec(name="siglip"), model)


def started(objective: Objective, source: str, trains: str = "clip", **keys: object) -> dict[str, torch.Tensor]:
    plan = plan_from(source, trains, **keys)
    assert plan.init is not None
    initialize_from(objective, plan.init, plan)
    return objective.state_dict()


def test_a_plan_keeps_where_a_run_starts_and_a_name_becomes_a_uri() -> None:
    plan = plan_from("other", towers=["vision"])
    assert plan.init == InitSpec.model_validate({"from": "file:///runs/other", "towers": ["vision"]})
    assert load_plan(plan.model_dump_json(), "plan.json") == plan
    assert plan.identity["init"] == {"from": "file:///runs/other", "towers": ["vision"]}
    assert plan_from("openai/clip-vit-base-patch32").init.from_ == "openai/clip-vit-base-patch32"


def test_clip_starts_from_a_hugging_face_folder(clip: tuple[str, CLIPModel]) -> None:
    folder, model = clip
    state = started(build("clip"), folder)
    for name, tensor in model.state_dict().items():
        tower = "vision." if name.startswith("vis") else "text." if name.startswith("text") else ""
        assert torch.equal(state[f"{tower}{name}"].reshape(tensor.shape), tensor), name


def test_one_tower_starts_there_and_the_rest_stays_fresh(clip: tuple[str, CLIPModel]) -> None:
    folder, model = clip
    fresh, state = build("clip").state_dict(), started(build("clip"), folder, towers=["vision"])
    name = "embeddings.class_embedding"
    assert torch.equal(state[f"vision.vision_model.{name}"], model.state_dict()[f"vision_model.{name}"])
    assert all(torch.equal(state[key], fresh[key]) for key in fresh if key.startswith("text."))


def test_catlip_starts_from_a_clip_run_and_keeps_its_own_classifier(tmp_path: Path) -> None:
    source = build("clip").state_dict()
    weights = {name: tensor + 1 for name, tensor in source.items()}
    plan = plan_from(str(tmp_path / "run"))
    store = LocalStore(str(tmp_path / "run"))
    store.write_bytes("plan.json", plan.model_dump_json().encode())
    write_checkpoint(store, 3, {}, {name: list(tensor.shape) for name, tensor in weights.items()}, weights.items())
    fresh, state = build("catlip").state_dict(), started(build("catlip"), str(tmp_path / "run"))
    for name in state:
        expected = (
            fresh[name] if name.startswith("classifier.") else weights[name.replace("vision.", "vision.vision_model.")]
        )
        assert torch.equal(state[name], expected), name


def test_positions_of_another_grid_are_resized(clip: tuple[str, CLIPModel]) -> None:
    folder, model = clip
    name = "vision_model.embeddings.position_embedding.weight"
    positions = started(build("clip", image_size=2 * IMAGE_SIZE), folder)[f"vision.{name}"]
    given = model.state_dict()[name]
    assert torch.equal(positions[0], given[0])
    side = math.isqrt(len(given) - 1)
    pooled = torch.nn.functional.avg_pool2d(positions[1:].reshape(2 * side, 2 * side, -1).permute(2, 0, 1), 2)
    torch.testing.assert_close(pooled.permute(1, 2, 0).flatten(0, 1), given[1:], atol=0.1, rtol=0)


def test_siglip_starts_from_a_hugging_face_folder_at_another_image_size(tmp_path: Path) -> None:
    model = save_siglip(tmp_path)
    state = started(build_siglip(2 * IMAGE_SIZE, model.config.text_config.vocab_size), str(tmp_path), "siglip")
    name = "embeddings.position_embedding.weight"
    given = model.state_dict()[f"vision_model.{name}"]
    side = math.isqrt(len(given))
    assert side**2 == len(given)
    pooled = torch.nn.functional.avg_pool2d(state[f"vision.{name}"].reshape(2 * side, 2 * side, -1).permute(2, 0, 1), 2)
    torch.testing.assert_close(pooled.permute(1, 2, 0).flatten(0, 1), given, atol=0.3, rtol=0)
    probe = "head.probe"
    assert torch.equal(state[f"vision.{probe}"], model.state_dict()[f"vision_model.{probe}"])
    assert torch.equal(state["logit_bias"], model.state_dict()["logit_bias"])


def test_what_does_not_fit_is_named(tmp_path: Path, clip: tuple[str, CLIPModel]) -> None:
    tokenizer = small_tokenizer()
    clip[1].vision_model.save_pretrained(tmp_path / "vision")
    with pytest.raises(ModelSourceError, match=r"has vision towers for this objective.*wanted text"):
        started(build("clip"), str(tmp_path / "vision"), towers=["text"])
    other = save_clip(small_clip(tokenizer, "quick_gelu"), tokenizer, tmp_path / "quick")
    with pytest.raises(ModelSourceError, match=r"variant 'openai', .*; set model\.variant"):
        started(build("clip"), str(other))
    longer = build("clip")
    longer.text.text_model.embeddings.position_embedding.weight = torch.nn.Parameter(torch.zeros(CONTEXT + 1, 32))
    with pytest.raises(
        ModelSourceError, match=r"text\.text_model\.embeddings\.position_embedding\.weight is \[16, 32\]"
    ):
        started(longer, clip[0])
