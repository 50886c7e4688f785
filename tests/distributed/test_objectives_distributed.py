"""N ranks have the loss, the gradient and the steps of one process with the global batch (bare torch, gloo).

Run as a script, this file is one rank: three are started once, and go through all cases as three ranks and as two.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.collectives import all_reduce_mean, gather_with_gradient, rank_and_world_size
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.job import OptimizerSpec, ScheduleSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.training.step import BareEngine, Batch, to_device, train_step

GLOBAL_SIZE, NUM_STEPS = 12, 3
NUM_CONCEPTS = 9
MAX_RANKS = 3
WORLD_SIZES = (3, 2)
CASES = [(name, precision) for name in ("clip", "catlip") for precision in ("fp32", "bf16")]

Record = dict[str, Tensor]


def build_named(name: str) -> Objective:
    tokens = TokenLayout(num_tokens=64, context=8, begin_id=1, end_id=3, pad_id=0)
    build = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=tokens)
    spec = ClipSpec(name="clip") if name == "clip" else CatlipSpec(name="catlip")
    return build_objective(spec, build, np.full(NUM_CONCEPTS, 0.2))


def global_batch(objective: Objective) -> Batch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 64, (GLOBAL_SIZE, 8), dtype=np.int32)
    tokens[:, 0], tokens[:, 6], tokens[:, 7] = 1, 3, 0
    tokens[::5, 6:] = [30, 3]
    concepts = np.stack([rng.permutation(NUM_CONCEPTS)[:3] for _ in range(GLOBAL_SIZE)]).astype(np.int32)
    concepts[::4] = -1
    image = rng.integers(0, 256, (GLOBAL_SIZE, 32, 32, 3), dtype=np.uint8)
    batch = {"image": image, "tokens": tokens, "concepts": concepts}
    return to_device(batch, objective.columns, torch.device("cpu"))


def record_training(name: str, precision: str) -> Record:
    """Loss, metrics and averaged gradient of the first step, and the weights after some steps, on this rank's rows."""
    rank, world_size = rank_and_world_size()
    objective = build_named(name)
    rows = GLOBAL_SIZE // world_size
    batch = {key: column[rank * rows : (rank + 1) * rows] for key, column in global_batch(objective).items()}
    engine = BareEngine(
        objective, OptimizerSpec(learning_rate=1e-3), ScheduleSpec(), num_steps=NUM_STEPS, precision=precision
    )
    loss, metrics = engine.loss([engine.encode(batch)])
    loss.backward()
    record = {f"metric.{key}": value for key, value in all_reduce_mean({**metrics, "loss": loss}).items()}
    for key, parameter in objective.named_parameters():
        gradient, parameter.grad = parameter.grad.float(), None
        if world_size > 1:
            dist.all_reduce(gradient)
        record[f"gradient.{key}"] = gradient / world_size
    for _ in range(NUM_STEPS):
        train_step(engine, [batch])
    record |= {f"norm.{key}": norm for key, norm in engine.gradient_norms().items()}
    return record | {f"weight.{key}": value.detach().float() for key, value in objective.named_parameters()}


def record_gather() -> Record:
    """Rows of rank r are r; the loss of rank r weighs row g of the gathered ones with (r + 1) (g + 1)."""
    rank, world_size = rank_and_world_size()
    rows = torch.full((2, 3), float(rank), requires_grad=True)
    gathered = gather_with_gradient(rows)
    weights = (rank + 1) * torch.arange(1.0, 2 * world_size + 1).unsqueeze(1)
    (weights * gathered).sum().backward()
    return {"gathered": gathered.detach(), "gradient": rows.grad}


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for world_size in WORLD_SIZES:
        if rank >= world_size:
            continue
        store = (folder / f"store-{world_size}").as_uri()
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=120)
        )
        torch.save(record_gather(), folder / f"gather-{world_size}-{rank}.pt")
        for name, precision in CASES:
            record = record_training(name, precision)
            if rank == world_size - 1:  # any rank must know the same; the last has the greatest offset
                torch.save(record, folder / f"{name}-{precision}-{world_size}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three ranks, started once, left what they computed."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-W", "error", __file__]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(MAX_RANKS)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert all(process.returncode == 0 for process in ranks), "\n".join(errors)
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Record]:
    """The same, computed by this process with the global batch."""
    torch.set_num_threads(1)
    return {case: record_training(*case) for case in CASES}


def load(path: Path) -> Record:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_rows_are_gathered_in_order_and_gradients_return_to_their_rank(folder: Path, world_size: int) -> None:
    all_weights = sum(range(1, world_size + 1))
    for rank in range(world_size):
        record = load(folder / f"gather-{world_size}-{rank}.pt")
        owners = torch.arange(world_size).repeat_interleave(2).float().unsqueeze(1)
        assert torch.equal(record["gathered"], owners.expand(-1, 3))
        own = all_weights * torch.tensor([2.0 * rank + 1, 2.0 * rank + 2]).unsqueeze(1)
        assert torch.equal(record["gradient"], own.expand(-1, 3))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("name", ["clip", "catlip"])
def test_ranks_compute_what_one_process_computes(
    folder: Path, alone: dict[tuple[str, str], Record], name: str, world_size: int
) -> None:
    expected, actual = alone[name, "fp32"], load(folder / f"{name}-fp32-{world_size}.pt")
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        # AdamW's first steps divide by a gradient's own size, which blows up rounding where it is nearly zero.
        tolerance = 2e-4 if key.startswith("weight.") else 2e-6
        torch.testing.assert_close(
            actual[key], value, rtol=1e-4, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("name", ["clip", "catlip"])
def test_ranks_in_bf16_differ_by_its_rounding_only(
    folder: Path, alone: dict[tuple[str, str], Record], name: str, world_size: int
) -> None:
    expected, actual = alone[name, "bf16"], load(folder / f"{name}-bf16-{world_size}.pt")
    assert actual["metric.loss"].item() == pytest.approx(expected["metric.loss"].item(), rel=1e-3)
    gradients = {key: value for key, value in expected.items() if key.startswith("gradient.")}
    total = torch.nn.utils.get_total_norm(gradients.values())
    for key, value in gradients.items():
        difference = (actual[key] - value).norm()
        assert difference <= 0.02 * value.norm() + 1e-3 * total, key


def test_the_gradient_that_is_compared_reaches_every_tower(alone: dict[tuple[str, str], Record]) -> None:
    for record in alone.values():
        for key, value in record.items():
            if key.startswith("gradient.") and not key.endswith("k_proj.bias"):  # softmax takes no notice of that one
                assert value.norm() > 1e-6, key


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
