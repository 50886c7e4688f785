"""Objectives start from weights that exist: what fits is taken over, a tower that does not fit is named."""

import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from foreign import CONTEXT, IMAGE_SIZE, save_clip, save_siglip, small_clip, small_tokenizer
from orchestrator.data.tokens import CaptionTokenizer, read_trained_tokenizer, train_tokenizer
from orchestrator.errors import ModelSourceError
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.runs.captions import tokenizer_facts
from orchestrator.spec.facts import FinderFacts, VocabularyFacts
from orchestrator.spec.init import InitSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec, SiglipSpec
from orchestrator.spec.plan import Plan, load_plan
from orchestrator.spec.presets import PRESETS, VARIANTS
from orchestrator.storage.local import LocalStore
from orchestrator.storage.marker import upload_files, write_marker
from orchestrator.training.checkpoint_folders import (
    LAYOUT_FILE,
    STATE_FILE,
    CheckpointRecord,
    EngineState,
    checkpoint_folder,
)
from orchestrator.training.fragment_files import AVERAGE, MASTER, Piece, write_pieces
from orchestrator.training.initial_weights import initialize_from
from orchestrator.training.made_checkpoint import write_checkpoint
from orchestrator.wordnet.captions import packaged_finder
from orchestrator.wordnet.vocabulary import Vocabulary
from starts import plan_from

CONCEPTS = (2084071, 2121620, 2958343, 7739125, 4285008)  # dog, cat, car, apple, sports car
OTHER_CONCEPTS = (7739125, 2084071, 1503061, 4530566, 2121620)  # of which bird and vessel are not among them
NUM_CONCEPTS = len(CONCEPTS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, CLIPModel]:
    tokenizer = small_tokenizer()
    model = small_clip(tokenizer)
    return str(save_clip(model, tokenizer, tmp_path_factory.mktemp("clip"))), model


def build(name: str, image_size: int = IMAGE_SIZE) -> Objective:
    tokens = TokenLayout(small_tokenizer().vocabulary_size, CONTEXT, begin_id=0, end_id=1, pad_id=2)
    spec = ClipSpec(name="clip") if name == "clip" else CatlipSpec(name="catlip")
    model = ModelBuild(PRESETS["vit_nano_32"], image_size, seed=5, tokens=tokens)
    return build_objective(spec, model, torch.full((NUM_CONCEPTS,), 0.2).double().numpy())


def build_siglip(image_size: int, num_tokens: int) -> Objective:
    tokens = TokenLayout(num_tokens, CONTEXT, begin_id=None, end_id=1, pad_id=1)
    model = ModelBuild(PRESETS["vit_nano_32"], image_size, seed=5, tokens=tokens, variant=VARIANTS["siglip"])
    return build_objective(SiglipSpec(name="siglip"), model)


def started(
    objective: Objective, source: str, trains: str = "clip", facts: VocabularyFacts | None = None, **keys: object
) -> dict[str, torch.Tensor]:
    plan = plan_from(source, trains, facts, **keys)
    assert plan.init is not None
    initialize_from(objective, plan.init, plan)
    return objective.state_dict()


def save_run(folder: Path, plan: Plan, weights: dict[str, torch.Tensor]) -> str:
    """A run of that plan with these weights at step 3."""
    store = LocalStore(str(folder))
    store.write_bytes("plan.json", plan.model_dump_json().encode())
    write_checkpoint(store, 3, {}, {name: list(tensor.shape) for name, tensor in weights.items()}, weights.items())
    return str(folder)


def save_vocabulary(folder: Path, offsets: tuple[int, ...], finder: str | None = None) -> VocabularyFacts:
    own = packaged_finder()
    counts = tuple(range(100, 100 - len(offsets), -1))
    vocabulary = Vocabulary(offsets, counts, num_captions=200, min_count=1, finder=finder or own.version)
    folder.mkdir()
    (folder / "concepts.parquet").write_bytes(vocabulary.to_bytes(own.table))
    return VocabularyFacts(
        uri=f"file://{folder}/concepts.parquet",
        digest=vocabulary.digest,
        size=len(offsets),
        finder=FinderFacts(mode="corenet", noun_table=None, tagger=None),
    )


def test_a_plan_keeps_where_a_run_starts_and_a_name_becomes_a_uri() -> None:
    plan = plan_from("other", towers=["vision"])
    assert plan.init == InitSpec.model_validate({"from": "file:///runs/other", "towers": ["vision"]})
    assert load_plan(plan.model_dump_json(), "plan.json") == plan
    assert plan.identity["init"] == {"from": "file:///runs/other", "weights": "raw", "towers": ["vision"]}
    assert plan_from("openai/clip-vit-base-patch32").init.from_ == "openai/clip-vit-base-patch32"


def test_clip_starts_from_a_hugging_face_folder(clip: tuple[str, CLIPModel]) -> None:
    folder, model = clip
    state = started(build("clip"), folder)
    for name, tensor in model.state_dict().items():
        tower = "vision." if name.startswith("vis") else "text." if name.startswith("text") else ""
        assert torch.equal(state[f"{tower}{name}"].reshape(tensor.shape), tensor), name


def test_a_folder_of_an_export_is_no_run_though_it_holds_a_plan(tmp_path: Path, clip: tuple[str, CLIPModel]) -> None:
    folder = shutil.copytree(clip[0], tmp_path / "export")
    (folder / "plan.json").write_text(plan_from("elsewhere").model_dump_json())
    name = "vision_model.embeddings.class_embedding"
    assert torch.equal(started(build("clip"), str(folder))[f"vision.{name}"], clip[1].state_dict()[name])


def test_one_tower_starts_there_and_the_rest_stays_fresh(clip: tuple[str, CLIPModel]) -> None:
    folder, model = clip
    fresh, state = build("clip").state_dict(), started(build("clip"), folder, towers=["vision"])
    name = "embeddings.class_embedding"
    assert torch.equal(state[f"vision.vision_model.{name}"], model.state_dict()[f"vision_model.{name}"])
    assert all(torch.equal(state[key], fresh[key]) for key in fresh if key.startswith("text."))


def test_catlip_starts_from_a_clip_run_and_keeps_its_own_classifier(tmp_path: Path) -> None:
    weights = {name: tensor + 1 for name, tensor in build("clip").state_dict().items()}
    run = save_run(tmp_path / "run", plan_from("elsewhere"), weights)
    fresh, state = build("catlip").state_dict(), started(build("catlip"), run, "catlip")
    for name in state:
        expected = (
            fresh[name] if name.startswith("classifier.") else weights[name.replace("vision.", "vision.vision_model.")]
        )
        assert torch.equal(state[name], expected), name


def catlip_run(folder: Path, facts: VocabularyFacts) -> tuple[str, dict[str, torch.Tensor]]:
    weights = {name: tensor + 1 for name, tensor in build("catlip").state_dict().items()}
    return save_run(folder, plan_from("elsewhere", "catlip", facts), weights), weights


def test_a_classifier_of_the_same_vocabulary_is_taken_over_whole(tmp_path: Path) -> None:
    facts = save_vocabulary(tmp_path / "own", CONCEPTS)
    run, weights = catlip_run(tmp_path / "run", facts)
    state = started(build("catlip"), run, "catlip", facts)
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    fresh, towers_alone = (
        build("catlip").state_dict(),
        started(build("catlip"), run, "catlip", facts, towers=["vision"]),
    )
    for name in fresh:
        assert torch.equal(towers_alone[name], (fresh if name.startswith("classifier.") else weights)[name]), name


def test_a_classifier_of_another_vocabulary_is_carried_over_by_its_concepts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As many concepts, two of them others, in another order."""
    caplog.set_level(logging.INFO)
    theirs, ours = save_vocabulary(tmp_path / "theirs", CONCEPTS), save_vocabulary(tmp_path / "ours", OTHER_CONCEPTS)
    run, weights = catlip_run(tmp_path / "run", theirs)
    fresh, state = build("catlip").state_dict(), started(build("catlip"), run, "catlip", ours)
    for name in ("classifier.weight", "classifier.bias"):
        for row, offset in enumerate(OTHER_CONCEPTS):
            expected = weights[name][CONCEPTS.index(offset)] if offset in CONCEPTS else fresh[name][row]
            assert torch.equal(state[name][row], expected), (name, row)
    said = (
        f"another vocabulary ({theirs.digest}, this one {ours.digest}): the classifier takes its rows of the 3 concepts"
    )
    assert said in caplog.text
    assert "2 rows are fresh" in caplog.text


def test_a_classifier_of_another_wordnet_starts_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = save_vocabulary(tmp_path / "theirs", CONCEPTS, "corenet-1 3.1-0123456789ab")
    ours = save_vocabulary(tmp_path / "ours", CONCEPTS)
    run, _ = catlip_run(tmp_path / "run", theirs)
    fresh, state = build("catlip").state_dict(), started(build("catlip"), run, "catlip", ours)
    assert torch.equal(state["classifier.weight"], fresh["classifier.weight"])
    assert "of the nouns of WordNet 3.1-0123456789ab" in caplog.text


def test_concepts_that_are_not_a_classifiers_rows_are_refused(tmp_path: Path, clip: tuple[str, CLIPModel]) -> None:
    facts = save_vocabulary(tmp_path / "export", (*CONCEPTS, 1503061))
    clip[1].vision_model.save_pretrained(tmp_path / "export")
    head = {name: build("catlip").state_dict()[name] for name in ("classifier.weight", "classifier.bias")}
    save_file(head, tmp_path / "export" / "head.safetensors")
    own = save_vocabulary(tmp_path / "own", CONCEPTS)
    for ours in (facts, own):
        with pytest.raises(ModelSourceError, match=r"classifier has 5 rows, its concepts\.parquet 6 concepts"):
            started(build("catlip"), str(tmp_path / "export"), "catlip", ours)
    started(build("catlip"), str(tmp_path / "export"), "catlip", own, towers=["vision"])


@pytest.mark.parametrize("towers", [None, ["vision"]])
def test_scalars_come_with_all_towers_of_the_same_objective_alone(tmp_path: Path, towers: list[str] | None) -> None:
    run = save_run(
        tmp_path / "run", plan_from("elsewhere"), build("clip").state_dict() | {"logit_scale": torch.ones(1)}
    )
    keys = {} if towers is None else {"towers": towers}
    assert (started(build("clip"), run, **keys)["logit_scale"].item() == 1) == (towers is None)
    tokens = TokenLayout(small_tokenizer().vocabulary_size, CONTEXT, begin_id=0, end_id=1, pad_id=2)
    model = ModelBuild(PRESETS["vit_nano_32"], IMAGE_SIZE, seed=5, tokens=tokens)
    siglip = build_objective(SiglipSpec(name="siglip", towers="clip"), model)
    plan = plan_from(run, **keys).model_copy(update={"objective": SiglipSpec(name="siglip", towers="clip")})
    assert plan.init is not None
    initialize_from(siglip, plan.init, plan)
    assert siglip.state_dict()["logit_scale"].exp().item() == pytest.approx(10)


def test_a_run_starts_from_the_average_of_another(tmp_path: Path) -> None:
    raw = build("clip").state_dict()
    pieces = [Piece(name, 0, {MASTER: raw[name].flatten(), AVERAGE: raw[name].flatten() + 1}) for name in raw]
    run = save_run(tmp_path / "run", plan_from("elsewhere"), raw)
    with pytest.raises(ModelSourceError, match=r"step-00000003 holds no average of the weights; set it to raw"):
        started(build("clip"), run, weights="ema")
    store, folder, local = LocalStore(run), checkpoint_folder(6), tmp_path / "local"
    local.mkdir()
    (local / LAYOUT_FILE).write_text(json.dumps({"0.safetensors": write_pieces(local / "0.safetensors", pieces)}))
    shapes = {name: list(tensor.shape) for name, tensor in raw.items()}
    engine = EngineState(6, 6, 1.0, ema_updates=6, shapes=shapes)
    (local / STATE_FILE).write_bytes(CheckpointRecord(6, "", {}, None, engine).to_json())
    write_marker(store, folder, upload_files(store, folder, local))
    name = "vision.vision_model.embeddings.class_embedding"
    assert torch.equal(started(build("clip"), run)[name], raw[name])
    assert torch.equal(started(build("clip"), run, weights="ema")[name], raw[name] + 1)


def reading_by(plan: Plan, tokenizer: CaptionTokenizer, folder: Path) -> Plan:
    """That plan with this tokenizer, which is kept in ``folder``."""
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer.json)
    facts = tokenizer_facts((folder / "tokenizer.json").as_uri(), tokenizer)
    return plan.model_copy(update={"model": plan.model.model_copy(update={"tokenizer": facts})})


def test_a_text_tower_of_other_tokens_is_refused(tmp_path: Path, clip: tuple[str, CLIPModel]) -> None:
    """Of as many tokens, so that nothing shows in the shapes."""
    same = small_tokenizer()
    captions = ["some people walk along an old street", "an old man", "the street along some people"]
    other = read_trained_tokenizer(train_tokenizer(captions, same.vocabulary_size), "captions")
    assert other.vocabulary_size == same.vocabulary_size
    run = save_run(tmp_path / "run", reading_by(plan_from("x"), same, tmp_path / "theirs"), build("clip").state_dict())
    for source, named in ((clip[0], clip[0]), (run, "theirs/tokenizer.json")):
        plan = reading_by(plan_from(source), other, tmp_path / f"other-{Path(source).name}")
        assert plan.init is not None
        with pytest.raises(
            ModelSourceError, match=rf"another tokenizer.* tokens have another id.*theirs \(.*{named}\)"
        ):
            initialize_from(build("clip"), plan.init, plan)
        initialize_from(build("clip"), plan.init.model_copy(update={"towers": ("vision",)}), plan)
        plan = reading_by(plan_from(source), same, tmp_path / f"same-{Path(source).name}")
        initialize_from(build("clip"), InitSpec.model_validate({"from": source}), plan)


def test_only_a_run_has_an_average(clip: tuple[str, CLIPModel]) -> None:
    with pytest.raises(ModelSourceError, match=r"init\.weights: .* is no run"):
        started(build("clip"), clip[0], weights="ema")


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
        ModelSourceError,
        match=r"text_model\.embeddings\.position_embedding\.weight is \[16, 32\], wanted \[17, 32\].* text\.context",
    ):
        started(longer, clip[0])
