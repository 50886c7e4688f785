"""N ranks have the loss, the gradient and the steps of one process with the global batch (bare torch, gloo).

Run as a script, this file is one rank: three are started once, and go through all cases as three ranks and as two.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.collectives import all_reduce_mean, gather_with_gradient, rank_and_world_size, shift_to_next_rank
from orchestrator.errors import ModelSourceError
from orchestrator.objectives.two_towers import caption_metrics
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.training.initial_weights import initialize_from
from orchestrator.training.step import BareEngine, train_step
from ranks import leave_record, micro_batches, process_group
from starts import plan_from
from tiny import SPECS, build_tiny

NUM_STEPS = 3
MAX_RANKS = 3
WORLD_SIZES = (3, 2)
CASES = [(name, precision) for name in SPECS for precision in ("fp32", "bf16")]

Record = dict[str, Tensor]


def record_training(name: str, precision: str) -> Record:
    """Loss, metrics and averaged gradient of the first step, and the weights after some steps, on this rank's rows."""
    _, world_size = rank_and_world_size()
    objective = build_tiny(name)
    (batch,) = micro_batches(0)
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
    # Each rank has a caption of its own, and one that all have.
    hash_BK, no_BK = torch.tensor([[rank], [77]]), torch.zeros(2, 1, dtype=torch.bool)
    metrics = caption_metrics({"truncated_BK": no_BK, "repeated_BK": no_BK, "hash_BK": hash_BK})
    return {
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "duplicates": metrics["duplicate_caption_fraction"],
    }


def record_shift() -> Record:
    """Two blocks of other shapes, handed on as often as there are ranks but one."""
    rank, world_size = rank_and_world_size()
    blocks = [torch.full((2,), float(rank)), torch.full((3, 1), 10.0 * rank)]
    for _ in range(world_size - 1):
        blocks = shift_to_next_rank(blocks)
    return {"first": blocks[0], "second": blocks[1]}


def record_start(folder: Path) -> Record:
    """Weights after a start from a file that each rank finds with other numbers in it, as a run's last checkpoint may
    be another a moment later; the second start is from one that is not there."""
    rank, _ = rank_and_world_size()
    objective = build_tiny("catlip")
    state = {name.replace("vision.", "vision_model."): value + rank for name, value in objective.state_dict().items()}
    save_file(state, folder / f"start-{rank}.safetensors")
    plan = plan_from(str(folder / f"start-{rank}.safetensors"), "catlip")
    assert plan.init is not None
    initialize_from(objective, plan.init, plan)
    started = {name: value.clone() for name, value in objective.state_dict().items()}
    try:
        initialize_from(objective, plan.init.model_copy(update={"from_": str(folder / "absent")}), plan)
    except ModelSourceError:
        return started
    raise AssertionError("nothing is there")


def run_rank(folder: Path) -> None:
    records: dict[Any, Record] = {}
    for world_size in WORLD_SIZES:
        if int(os.environ["RANK"]) >= world_size:
            continue
        with process_group(f"of-{world_size}", world_size):
            records["gather", world_size] = record_gather()
            records["shift", world_size] = record_shift()
            records["start", world_size] = record_start(folder)
            for name, precision in CASES:
                records[name, precision, world_size] = record_training(name, precision)
    leave_record(folder, records)


@pytest.fixture(scope="module")
def records(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Record]]:
    """What three ranks, started once, computed; by rank. Any must know the same; the last has the greatest offset."""
    return run_ranks(__file__, MAX_RANKS, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Record]:
    """The same, computed by this process with the global batch."""
    torch.set_num_threads(1)
    return {case: record_training(*case) for case in CASES}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_rows_are_gathered_in_order_and_gradients_return_to_their_rank(
    records: list[dict[Any, Record]], world_size: int
) -> None:
    all_weights = sum(range(1, world_size + 1))
    for rank in range(world_size):
        record = records[rank]["gather", world_size]
        owners = torch.arange(world_size).repeat_interleave(2).float().unsqueeze(1)
        assert torch.equal(record["gathered"], owners.expand(-1, 3))
        own = all_weights * torch.tensor([2.0 * rank + 1, 2.0 * rank + 2]).unsqueeze(1)
        assert torch.equal(record["gradient"], own.expand(-1, 3))
        assert record["duplicates"].item() == 0.5


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_blocks_travel_around_the_ring(records: list[dict[Any, Record]], world_size: int) -> None:
    for rank in range(world_size):
        following = (rank + 1) % world_size  # whose block has gone all the way round
        record = records[rank]["shift", world_size]
        assert record["first"].tolist() == [following] * 2
        assert record["second"].tolist() == [[10 * following]] * 3


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_start_from_what_rank_0_found(records: list[dict[Any, Record]], world_size: int) -> None:
    expected = build_tiny("catlip").state_dict()
    for rank in range(world_size):
        assert all(torch.equal(records[rank]["start", world_size][name], value) for name, value in expected.items())


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("name", SPECS)
def test_ranks_compute_what_one_process_computes(
    records: list[dict[Any, Record]], alone: dict[tuple[str, str], Record], name: str, world_size: int
) -> None:
    expected, actual = alone[name, "fp32"], records[world_size - 1][name, "fp32", world_size]
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        # AdamW's first steps divide by a gradient's own size, which blows up rounding where it is nearly zero.
        tolerance = 2e-4 if key.startswith("weight.") else 2e-6
        torch.testing.assert_close(
            actual[key], value, rtol=1e-4, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("name", SPECS)
def test_ranks_in_bf16_differ_by_its_rounding_only(
    records: list[dict[Any, Record]], alone: dict[tuple[str, str], Record], name: str, world_size: int
) -> None:
    expected, actual = alone[name, "bf16"], records[world_size - 1][name, "bf16", world_size]
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
    run_rank(Path(sys.argv[1]))
