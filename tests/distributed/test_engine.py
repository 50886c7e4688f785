"""At ZeRO 0-3 two ranks train as one process with the global batch does, in bare torch, also where batches change.

Run as a script, this file is one rank: two are started once, and go through all stages and cases.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.spec.batches import Batches, BatchPhase
from orchestrator.spec.optimizer import FreezeSpec, GuardSpec, OptimizerSpec, ScheduleSpec
from orchestrator.training.ema import Ema
from orchestrator.training.engine import DeepSpeedEngine, Precision
from orchestrator.training.step import BareEngine, train_step
from ranks import Stage, build_engine, leave_record, micro_batches, process_group, set_up_deepspeed
from tiny import GLOBAL_SIZE, build_tiny, global_batch

NUM_STEPS, NUM_RANKS = 3, 2
STAGES: tuple[Stage, ...] = (3, 2, 1, 0)  # 0 last: its autocast stays on in a process
NAMES = ("clip", "catlip")
# 4, 12 and 8 samples: one, three and two micro batches a rank.
CHANGING = Batches(
    global_size=8,
    phases=(BatchPhase(stop_sample=4, global_sizes=(4,)), BatchPhase(stop_sample=16, global_sizes=(12,))),
)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
BAD_LOSSES = {"fp32": math.inf, "bf16": math.nan, "fp16": math.nan}
OPTIMIZER, SCHEDULE = OptimizerSpec(learning_rate=1e-3, gradient_clip=1.0), ScheduleSpec(warmup_fraction=0.5)
PARTLY = OPTIMIZER.model_copy(
    update={
        "freeze": {"vision": FreezeSpec(layers=1), "text": FreezeSpec(until_fraction=0.5)},
        "layer_decay": {"vision": 0.5},
    }
)
SPIKE = OPTIMIZER.model_copy(update={"guard": GuardSpec(loss_factor=2, window=2)})
DECAY = 0.3
LOSS_SCALE = 1024.0

Record = dict[str, Any]


def allow_fp16() -> None:
    """Deepspeed refuses fp16 on a CPU for its speed; torch computes it there."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.accelerator import get_accelerator

    type(get_accelerator()).is_fp16_supported = lambda accelerator: True


def start_engine(
    name: str,
    num_micro: int,
    precision: Precision,
    stage: Stage,
    optimizer: OptimizerSpec = OPTIMIZER,
    batches: Batches = Batches(global_size=GLOBAL_SIZE),
) -> DeepSpeedEngine:
    engine = build_engine(build_tiny(name), optimizer, SCHEDULE, NUM_STEPS, precision, stage, num_micro, batches)
    engine.loss_scale = LOSS_SCALE  # deepspeed starts at a scale that makes fp16 overflow, and leaves steps out
    return engine


def whole_masters(engine: DeepSpeedEngine, parts: list[Tensor] | None = None) -> dict[str, Tensor]:
    """Put together from all ranks' fragments; ``parts`` in place of the fragments' own values."""
    fragments = engine.partition.fragments
    values = [fragment.master for fragment in fragments] if parts is None else parts
    own = [(f.name, f.start, value.clone()) for f, value in zip(fragments, values, strict=True)]
    everyone: list[Any] = [None] * NUM_RANKS
    dist.all_gather_object(everyone, own)
    whole = {name: torch.full((math.prod(shape),), math.nan) for name, shape in engine.shapes.items()}
    for name, start, value in (piece for pieces in everyone for piece in pieces):
        whole[name][start : start + len(value)] = value
    return whole


def record_training(name: str, precision: Precision, stage: Stage) -> Record:
    """Losses, norms and masters of some steps of several sizes, and the average of the masters beside them."""
    engine = start_engine(name, 2, precision, stage, batches=CHANGING)
    ema = Ema(engine.partition, DECAY)
    losses, norms = [], []
    for step in range(NUM_STEPS):
        size = CHANGING.size_at(step)
        loss = train_step(engine, micro_batches(step, size // 4, global_size=size)).loss
        dist.all_reduce(loss)
        losses.append(float(loss) / NUM_RANKS)
        norms.append({tower: float(norm) for tower, norm in engine.gradient_norms().items()})
        ema.update()
        features(engine)  # an evaluation in between leaves no trace
    raw, average = whole_masters(engine), whole_masters(engine, ema.averages)
    record = {"losses": losses, "norms": norms, "raw": raw, "average": average, "clipped": engine.num_clipped_steps}
    record["features"] = features(engine)
    with ema.swapped():
        record["features_average"] = features(engine)
        record["swapped"] = whole_masters(engine)
    record["features_again"] = features(engine)
    record["raw_again"] = whole_masters(engine)
    engine.close()
    return record


def record_partly(precision: Precision, stage: Stage) -> Record:
    """Some layers never trained, a tower trained later, slower towards the bottom."""
    engine = start_engine("clip", 1, precision, stage, PARTLY)
    before = whole_masters(engine)
    first = train_step(engine, micro_batches(0))
    after_first = whole_masters(engine)
    for step in range(1, NUM_STEPS):
        train_step(engine, micro_batches(step))
    record = {"before": before, "after_first": after_first, "raw": whole_masters(engine), "loss": float(first.loss)}
    engine.close()
    return record


def record_spike(precision: Precision, stage: Stage) -> Record:
    """Two steps, one whose loss is a multiple of theirs on one rank, and one more; and the same without the spike."""
    weights = []
    for has_spike in (True, False):
        engine = start_engine("catlip", 2, precision, stage, SPIKE)
        left_out, scales = [], []
        for step, is_spike in [(0, False), (1, False), (0, True), (2, False)]:
            if is_spike and not has_spike:
                continue
            engine.steps_taken = step  # the place in the schedule
            for index, batch in enumerate(micro_batches(step, 2)):
                loss, _ = engine.loss([engine.encode(batch)])
                if is_spike and dist.get_rank() == 1:
                    engine._losses[-1] *= 4
                    loss = loss * 4
                engine.backward(loss / 2, is_last=index == 1)
            engine.step()
            left_out.append(engine.was_left_out)
            scales.append(engine.loss_scale)
        weights.append(whole_masters(engine))
        if has_spike:
            record = {"left_out": left_out, "scales": scales, "spikes": engine.guard.num_spikes}
        engine.close()
    return {**record, "with_spike": weights[0], "without": weights[1]}


def features(engine: DeepSpeedEngine) -> Tensor:
    """Ranks may call differently often, and different methods."""
    batch = global_batch(0)
    with engine.gathered() as objective:
        for _ in range(dist.get_rank()):
            objective({name: batch[name] for name in objective.columns}, stage="encode")
        return objective.vision_features(batch["image"])


def record_nonfinite(precision: Precision, stage: Stage) -> Record:
    """A good step, one in which rank 1's loss is not finite, and a good one."""
    engine = start_engine("catlip", 2, precision, stage)
    train_step(engine, micro_batches(0, 2))
    before = whole_masters(engine)
    for index, batch in enumerate(micro_batches(1, 2)):
        loss, _ = engine.loss([engine.encode(batch)])
        # Added, so that its gradient is finite: only the loss tells.
        is_bad = (dist.get_rank(), index) == (1, 0)
        engine.backward(loss + BAD_LOSSES[precision] if is_bad else loss, is_last=index == 1)
    engine.step()
    skipped, after = engine.num_skipped_steps, whole_masters(engine)
    train_step(engine, micro_batches(2, 2))
    record = {"before": before, "after": after, "later": whole_masters(engine), "skipped": skipped}
    record |= {"skipped_later": engine.num_skipped_steps, "updates": engine.partition.num_updates}
    engine.close()
    return record


def run_rank(folder: Path) -> None:
    set_up_deepspeed()
    allow_fp16()
    records: dict[Any, Record] = {}
    with process_group("all"):
        for stage in STAGES:
            for precision in PRECISIONS:
                for name in NAMES:
                    records[stage, precision, name] = record_training(name, precision, stage)
                records[stage, precision, "nonfinite"] = record_nonfinite(precision, stage)
                records[stage, precision, "partly"] = record_partly(precision, stage)
                records[stage, precision, "spike"] = record_spike(precision, stage)
    leave_record(folder, records)


@pytest.fixture(scope="module")
def records(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Record]:
    """What the last rank saw."""
    last: dict[Any, Record] = run_ranks(__file__, NUM_RANKS, tmp_path_factory.mktemp("ranks"))[-1]
    return last


@pytest.fixture(scope="module")
def reference() -> Iterator[dict[Any, Record]]:
    """One process with the global batch, in bare torch."""
    before, _ = torch.get_num_threads(), torch.set_num_threads(1)
    alone = {(name, precision): train_alone(name, precision) for name in NAMES for precision in PRECISIONS}
    yield {**alone, "partly": train_alone("clip", "fp32", PARTLY, Batches(global_size=GLOBAL_SIZE))}
    torch.set_num_threads(before)


def train_alone(name: str, precision: str, optimizer: OptimizerSpec = OPTIMIZER, batches: Batches = CHANGING) -> Record:
    engine = BareEngine(build_tiny(name), optimizer, SCHEDULE, NUM_STEPS, precision, batches)
    names = {id(weight): name for name, weight in engine.objective.named_parameters()}
    masters = {names[id(w)]: master for w, master in zip(engine._weights, engine._masters, strict=True)}
    average = {name: master.detach().flatten().clone() for name, master in masters.items()}
    initial = {name: value.clone() for name, value in average.items()}
    losses, norms = [], []
    for step in range(NUM_STEPS):
        losses.append(float(train_step(engine, micro_batches(step, global_size=batches.size_at(step))).loss))
        norms.append({tower: float(norm) for tower, norm in engine.gradient_norms().items()})
        decay = min(DECAY, (2 + step) / (11 + step))
        average = {
            name: decay * value + (1 - decay) * masters[name].detach().flatten() for name, value in average.items()
        }
    raw = {name: master.detach().flatten() for name, master in masters.items()}
    return {"losses": losses, "norms": norms, "raw": raw, "average": average, "initial": initial}


every_stage = pytest.mark.parametrize("stage", STAGES)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)
every_case = pytest.mark.parametrize("name", NAMES)


@every_stage
@every_case
def test_ranks_train_as_one_process_does(records, reference, stage, name):
    ours, alone = records[stage, "fp32", name], reference[name, "fp32"]
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for norms, expected in zip(ours["norms"], alone["norms"], strict=True):
        assert norms == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours["raw"], alone["raw"], rtol=0, atol=1e-5)
    assert ours["clipped"] == sum(norms["total"] > OPTIMIZER.gradient_clip for norms in alone["norms"]) > 0


@every_stage
@every_case
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_the_masters_move_as_those_of_one_process(records, reference, stage, name, precision):
    """Towards the same place: AdamW makes a step of full length of any gradient, however small and rounded."""
    ours, alone = records[stage, precision, name], reference[name, precision]
    assert ours["losses"] == pytest.approx(alone["losses"], rel=2e-2)
    for norms, expected in zip(ours["norms"], alone["norms"], strict=True):
        assert norms == pytest.approx(expected, rel=5e-2)
    moved = torch.cat([ours["raw"][key] - alone["initial"][key] for key in alone["raw"]])
    expected_move = torch.cat([alone["raw"][key] - alone["initial"][key] for key in alone["raw"]])
    assert torch.cosine_similarity(moved, expected_move, dim=0) > 0.95


@every_stage
@every_case
def test_the_average_is_that_of_one_process(records, reference, stage, name):
    average = records[stage, "fp32", name]["average"]
    torch.testing.assert_close(average, reference[name, "fp32"]["average"], rtol=0, atol=1e-5)


@every_stage
@every_precision
@every_case
def test_swapping_shows_the_average_and_puts_the_raw_weights_back(records, stage, precision, name):
    record = records[stage, precision, name]
    torch.testing.assert_close(record["swapped"], record["average"], rtol=0, atol=0)
    assert not torch.equal(record["features_average"], record["features"])
    torch.testing.assert_close(record["raw_again"], record["raw"], rtol=0, atol=0)
    assert torch.equal(record["features_again"], record["features"])


@every_stage
@every_precision
def test_a_loss_that_is_not_finite_on_one_rank_changes_no_weight_on_any(records, stage, precision):
    record = records[stage, precision, "nonfinite"]
    torch.testing.assert_close(record["after"], record["before"], rtol=0, atol=0)
    assert (record["skipped"], record["skipped_later"], record["updates"]) == (1, 1, 2)
    assert all(value.isfinite().all() for value in record["later"].values())
    assert any(not torch.equal(record["later"][name], value) for name, value in record["before"].items())


@every_stage
@every_precision
def test_frozen_layers_stay_bit_for_bit_and_a_tower_is_taken_up_later(records, reference, stage, precision):
    record = records[stage, precision, "partly"]
    moved_first = {key for key, value in record["before"].items() if not torch.equal(record["after_first"][key], value)}
    moved = {key for key, value in record["before"].items() if not torch.equal(record["raw"][key], value)}
    never = {key for key in record["before"] if key.startswith("vision.") and "layers.1." not in key}
    never -= {key for key in never if "post_layernorm" in key or "projection" in key.split(".")[1]}
    assert never
    assert not moved & never
    assert not any(key.startswith("text.") for key in moved_first)
    assert any(key.startswith("text.") for key in moved)
    if precision == "fp32":
        alone = reference["partly"]["raw"]
        torch.testing.assert_close({key: record["raw"][key] for key in alone}, alone, rtol=0, atol=1e-5)


@every_stage
@every_precision
def test_a_spike_on_one_rank_is_left_out_on_all_and_leaves_no_trace(records, stage, precision):
    record = records[stage, precision, "spike"]
    assert (record["left_out"], record["spikes"]) == ([False, False, True, False], 1)
    assert len(set(record["scales"])) == 1
    torch.testing.assert_close(record["with_spike"], record["without"], rtol=0, atol=0)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
