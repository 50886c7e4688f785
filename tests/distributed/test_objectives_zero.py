"""At ZeRO 0-3, with micro batches and several captions an image, ranks have the loss and gradient of the definition.

The definition: one process, the whole global batch, float64, pair by pair (tests/shared/naive.py). Run as a script,
this file is one rank: two are started once, and go through all stages and cases.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from naive import naive_loss_and_gradient
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.training.engine import DeepSpeedEngine
from orchestrator.training.step import train_step
from ranks import Stage, build_engine, leave_record, micro_batches, process_group, set_up_deepspeed
from tiny import SPECS, build_tiny, global_batch


class Case(NamedTuple):
    """An objective, in so many micro batches, with so many captions an image."""

    name: str
    num_micro: int
    num_captions: int


NUM_RANKS = 2
STAGES: tuple[Stage, ...] = (3, 2, 1, 0)  # 0 last: its autocast stays on in a process
PRECISIONS = ("fp32", "bf16")
CASES = [Case(name, *form) for name in SPECS for form in ((1, 1), (3, 2))]
MATRIX = [(stage, precision, case) for stage in STAGES for precision in PRECISIONS for case in CASES]
SHORT = [key for key in MATRIX if key[0] in (0, 2) or key[2].name == "clip"]
LONG = [key for key in MATRIX if key not in SHORT]
TOLERANCES = {"fp32": (1e-5, 1e-5), "bf16": (1e-2, 5e-2)}
"""By precision: of the loss, and of each gradient's error, as a share of itself plus a hundredth of all."""

Record = dict[str, Any]


def record_step(stage: Stage, precision: str, case: Case) -> Record:
    """Loss and averaged gradient of one step over all ranks."""
    objective = build_tiny(case.name)
    spec = OptimizerSpec(learning_rate=1e-3, gradient_clip=0)
    engine = build_engine(objective, spec, ScheduleSpec(), 1, precision, stage, case.num_micro)
    gradient: dict[str, Tensor] = {}
    measure = engine._measure

    def keep_gradient_and_measure() -> dict[str, Tensor]:  # the step consumes the gradient
        gradient.update(whole_gradient(engine))
        return measure()

    engine._measure = keep_gradient_and_measure
    loss = train_step(engine, micro_batches(0, case.num_micro, case.num_captions)).loss
    dist.all_reduce(loss)
    engine.close()
    return {"loss": float(loss) / NUM_RANKS, "gradient": gradient}


def whole_gradient(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Put together from all ranks' fragments."""
    own = [(f.name, f.start, engine.partition.gradient(f).float().clone()) for f in engine.partition.fragments]
    everyone: list[Any] = [None] * NUM_RANKS
    dist.all_gather_object(everyone, own)
    whole = {name: torch.full((math.prod(shape),), math.nan) for name, shape in engine.shapes.items()}
    for name, start, value in (piece for pieces in everyone for piece in pieces):
        whole[name][start : start + len(value)] = value
    return {name: value.view(engine.shapes[name]) for name, value in whole.items()}


def run_rank(folder: Path) -> None:
    set_up_deepspeed()
    keys = LONG if (folder / "long").exists() else SHORT
    with process_group("all"):
        leave_record(
            folder, {(stage, precision, *case): record_step(stage, precision, case) for stage, precision, case in keys}
        )


@pytest.fixture(scope="module")
def short(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Record]:
    """What the last rank saw at ZeRO 0 and 2, and for CLIP at all stages."""
    return run_ranks(__file__, NUM_RANKS, tmp_path_factory.mktemp("ranks"))[-1]


@pytest.fixture(scope="module")
def long(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Record]:
    """The rest."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "long").touch()
    return run_ranks(__file__, NUM_RANKS, folder)[-1]


@pytest.fixture(scope="module")
def definition() -> dict[Case, tuple[float, dict[str, Tensor]]]:
    """Loss and gradient, computed by this process."""
    return {
        case: naive_loss_and_gradient(build_tiny(case.name), global_batch(0, num_captions=case.num_captions))
        for case in CASES
    }


def check(record: Record, precision: str, expected: tuple[float, dict[str, Tensor]]) -> None:
    loss, gradient = expected
    of_loss, of_gradient = TOLERANCES[precision]
    assert record["loss"] == pytest.approx(loss, rel=of_loss)
    assert record["gradient"].keys() == gradient.keys()
    total = torch.nn.utils.get_total_norm(gradient.values())
    for name, value in gradient.items():
        error = (record["gradient"][name].double() - value).norm()
        assert error <= of_gradient * (value.norm() + total / 100), f"{name}: {error} of {value.norm()}"


def identify(key: Any) -> str:
    stage, precision, case = key
    return f"zero{stage}-{precision}-{case.name}-{case.num_micro}x-{case.num_captions}captions"


@pytest.mark.parametrize("key", SHORT, ids=identify)
def test_a_step_has_the_loss_and_gradient_of_the_definition(short, definition, key):
    stage, precision, case = key
    check(short[stage, precision, *case], precision, definition[case])


@pytest.mark.full
@pytest.mark.parametrize("key", LONG, ids=identify)
def test_so_it_has_in_the_rest_of_the_matrix(long, definition, key):
    stage, precision, case = key
    check(long[stage, precision, *case], precision, definition[case])


def test_the_gradient_that_is_compared_reaches_every_parameter(definition):
    for case, (_, gradient) in definition.items():
        for name, value in gradient.items():
            # Softmax takes no notice of a bias of the keys.
            assert value.norm() > 1e-7 or name.endswith("k_proj.bias"), (case, name)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
