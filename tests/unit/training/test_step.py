"""One optimizer step on the bare engine: against torch alone, and without Ray, DeepSpeed and MLflow."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from orchestrator.objectives.objective import Objective
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.training.micro_batches import features_for_losses
from orchestrator.training.step import BareEngine, Batch, to_device, train_step
from tiny import SPECS, TOKENS, build_tiny

CONSTANT = ScheduleSpec(kind="constant", warmup_fraction=0)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_batch(objective: Objective, size: int = 8) -> Batch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 64, (size, 8), dtype=np.int32)
    tokens[:, 0], tokens[:, 6], tokens[:, 7] = TOKENS.begin_id, TOKENS.end_id, TOKENS.pad_id
    concepts = np.stack([rng.permutation(9)[:3] for _ in range(size)]).astype(np.int32)
    image = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return to_device({"image": image, "tokens": tokens, "concepts": concepts}, objective.columns, CPU)


def engine_of(objective: Objective, precision: str = "fp32", **options: float) -> BareEngine:
    spec = OptimizerSpec(**{"learning_rate": 1e-3, **options})
    return BareEngine(objective, spec, CONSTANT, num_steps=10, precision=precision)


def halves(batch: Batch) -> list[Batch]:
    return [{name: column[part] for name, column in batch.items()} for part in (slice(0, 4), slice(4, 8))]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_on_one_batch_lower_its_loss(name: str, precision: str) -> None:
    objective = build_tiny(name)
    engine, batch = engine_of(objective, precision), random_batch(objective)
    losses = [train_step(engine, [batch]).loss.item() for _ in range(8)]
    assert losses[-1] < 0.95 * losses[0]


def test_a_step_is_what_torch_alone_computes() -> None:
    ours, theirs = build_tiny("clip"), build_tiny("clip")
    batch = random_batch(ours)
    engine = engine_of(ours, gradient_clip=0.1, weight_decay=0.0, learning_rate=0.01)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    for _ in range(2):
        result = train_step(engine, [batch])
        adamw.zero_grad()
        loss, _ = theirs.loss([theirs.encode(batch)])
        loss.backward()
        total = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        adamw.step()
        assert result.loss.item() == pytest.approx(loss.item(), rel=1e-4)
        assert engine.gradient_norms()["total"].item() == pytest.approx(total.item(), rel=1e-3)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_micro_batches_take_the_step_of_their_whole(name: str, precision: str) -> None:
    whole, parts = build_tiny(name), build_tiny(name)
    batch = random_batch(whole)
    engines = engine_of(whole, precision, gradient_clip=0), engine_of(parts, precision, gradient_clip=0)
    one, many = train_step(engines[0], [batch]), train_step(engines[1], halves(batch))
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    assert many.loss.item() == pytest.approx(one.loss.item(), rel=tolerance)
    for name, value in one.metrics.items():
        assert many.metrics[name].item() == pytest.approx(value.item(), rel=tolerance, abs=tolerance)
    for name, norm in engines[0].gradient_norms().items():
        assert engines[1].gradient_norms()[name].item() == pytest.approx(norm.item(), rel=2 * tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_left_out_patches_and_other_sizes_are_of_the_step_alone(name: str) -> None:
    objective = build_tiny(name)
    batch = random_batch(objective)
    seen = objective.vision_features(batch["image"])
    first, _ = objective.loss([objective({**batch, "kept_patches": torch.arange(8).expand(8, -1)}, stage="encode")])
    whole, _ = objective.loss([objective(batch, stage="encode")])
    assert not torch.equal(first, whole)
    assert torch.equal(objective.vision_features(batch["image"]), seen)
    engine = engine_of(objective)
    for image in (batch["image"][:, ::2, ::2].contiguous(), batch["image"]):
        kept = torch.arange(3).expand(8, -1)
        assert train_step(engine, [{**batch, "image": image, "kept_patches": kept}]).loss.isfinite()


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.contrastive])
def test_cached_features_leave_the_gradient_of_towers_and_scalars_exact(name: str) -> None:
    objective = build_tiny(name)
    batch = random_batch(objective)
    quarters = [{name: column[start : start + 2] for name, column in batch.items()} for start in range(0, 8, 2)]
    gradients = []
    for micro_batches in ([batch], quarters):
        objective.zero_grad()
        for features in features_for_losses(objective.encode, micro_batches, contrastive=True):
            loss, _ = objective.loss(features)
            (loss / len(micro_batches)).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in objective.named_parameters()})
    whole, cached = gradients
    assert whole["logit_scale"].abs() > 1e-4
    for name, gradient in whole.items():  # by norms: elements near zero are what is left of sums that cancel
        assert (cached[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def test_dropout_chooses_the_same_in_both_passes_of_cached_features() -> None:
    dropout = torch.nn.Dropout(0.5)
    seen: list[torch.Tensor] = []

    def encode(batch: Batch) -> Batch:
        seen.append(dropout(batch["rows"]))
        return {"rows": seen[-1]}

    micro_batches = [{"rows": torch.ones(4, 8)} for _ in range(3)]
    joined = [torch.cat([part["rows"] for part in parts]) for parts in features_for_losses(encode, micro_batches, True)]
    first, second = seen[:3], seen[3:]
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(rows, joined[0]) for rows in joined)
    assert not torch.equal(dropout(torch.ones(4, 8)), first[0]), "the random numbers do not start anew"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_temperature_stays_within_its_bounds_in_the_master_too(precision: str) -> None:
    objective = build_tiny("clip", initial_scale=99.0)
    engine, batch = engine_of(objective, precision, learning_rate=0.1, gradient_clip=0), random_batch(objective)
    for _ in range(4):
        with torch.no_grad():
            engine.loss([engine.encode(batch)])
        engine.backward(-objective.logit_scale.sum(), is_last=True)
        engine.step()
    (master, low, high) = engine._bounded[0]
    assert (low, high) == (0.0, pytest.approx(math.log(100)))
    assert master.item() == pytest.approx(math.log(100))
    assert master.dtype == torch.float32
    assert objective.logit_scale.item() == pytest.approx(math.log(100), rel=4e-3)


def test_bf16_trains_an_fp32_master_whose_small_updates_are_not_lost() -> None:
    objective = build_tiny("catlip")
    engine = engine_of(objective, "bf16", learning_rate=1e-5)
    with torch.no_grad():
        objective.classifier.bias.fill_(1.0)
        masters = dict(zip(engine._weights, engine._masters, strict=True))
        masters[objective.classifier.bias].fill_(1.0)
    for _ in range(5):
        engine.backward(objective.classifier.bias.sum(), is_last=True)
        engine.step()
    assert objective.classifier.bias.dtype == torch.bfloat16
    assert torch.equal(objective.classifier.bias, torch.ones(9, dtype=torch.bfloat16))
    torch.testing.assert_close(masters[objective.classifier.bias], torch.full((9,), 1 - 5e-5), atol=2e-6, rtol=0)


def test_the_gradient_norm_is_given_per_tower_before_clipping() -> None:
    objective = build_tiny("clip")
    engine, batch = engine_of(objective, gradient_clip=1e-3), random_batch(objective)
    train_step(engine, [batch])
    norms = engine.gradient_norms()
    assert set(norms) == {"vision", "text", "head", "total"}
    assert norms["total"].item() == pytest.approx(
        math.hypot(*(norms[name].item() for name in ("vision", "text", "head")))
    )
    assert norms["total"] > 1e-3


def test_a_step_follows_the_schedule() -> None:
    objective = build_tiny("catlip")
    schedule = ScheduleSpec(kind="constant", warmup_fraction=0.5)
    engine = BareEngine(objective, OptimizerSpec(learning_rate=1.0), schedule, num_steps=4, precision="fp32")
    rates = []
    for _ in range(3):
        engine.backward(objective.classifier.bias.sum(), is_last=True)
        engine.step()
        rates.append(engine._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.25, 0.75, 1.0])


def test_read_only_columns_are_copied_and_others_left_behind() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    image.flags.writeable = False
    batch = to_device({"image": image, "shard": np.zeros(1, np.int32)}, ("image",), CPU)
    assert set(batch) == {"image"}
    assert batch["image"].dtype == torch.uint8
    assert torch.equal(batch["image"], torch.arange(12, dtype=torch.uint8).reshape(1, 2, 2, 3))


WITHOUT_THE_REST = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "deepspeed", "mlflow", "boto3"}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Refuse())
import numpy as np, torch
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import ClipSpec
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.training.step import BareEngine, to_device, train_step

build = ModelBuild(PRESETS["vit_nano_32"], 32, 0, TokenLayout(16, 4, 1, 3, 0))
objective = build_objective(ClipSpec(name="clip"), build)
engine = BareEngine(objective, OptimizerSpec(learning_rate=1e-3), ScheduleSpec(), 1, "fp32")
batch = {"image": np.zeros((2, 32, 32, 3), np.uint8), "tokens": np.array([[1, 5, 3, 0], [1, 6, 3, 0]], np.int32)}
result = train_step(engine, [to_device(batch, objective.columns, torch.device("cpu"))])
assert result.loss.isfinite() and not torch.distributed.is_initialized()
"""


def test_a_step_runs_where_ray_deepspeed_and_mlflow_are_not_installed() -> None:
    process = subprocess.run([sys.executable, "-c", WITHOUT_THE_REST], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
