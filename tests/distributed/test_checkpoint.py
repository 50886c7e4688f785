"""Checkpoints at ZeRO 0-3: training goes on as if it had never stopped, at any world size and stage.

Run as a script, this file is one rank. Two ranks train and write, then three new processes take up what they wrote.
"""

import logging
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel, CLIPVisionModel

from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.clip import ClipObjective
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.job import CheckpointSpec, OptimizerSpec, ScheduleSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec
from orchestrator.spec.plan import BatchPlan
from orchestrator.spec.presets import PRESETS
from orchestrator.storage.store import Store, open_store
from orchestrator.training import engine as engine_module
from orchestrator.training.checkpoint import Checkpoints, load_weights
from orchestrator.training.checkpoint_folders import StoredCheckpoint, find_stored
from orchestrator.training.ema import Ema
from orchestrator.training.engine import DeepSpeedEngine
from orchestrator.training.export import HEAD_FILE, export_checkpoint
from orchestrator.training.step import Batch, train_step

GLOBAL_SIZE, SAVED_STEP, NUM_STEPS = 12, 3, 6
NUM_WRITERS, NUM_READERS = 2, 3
NUM_CONCEPTS = 9
MAX_SCALE = 100.0
STAGES = (3, 2, 1, 0)  # 0 last: its autocast stays on in a process
WRITTEN_AT = {3: 0, 2: 3, 1: 2, 0: 1}
"""By the stage that reads, the stage whose checkpoint it takes up."""
PRECISIONS = ("fp32", "bf16")
SPEC = CheckpointSpec(keep_last=2)

Record = dict[str, Any]


class RisingClip(ClipObjective):
    """Wants nothing more than a higher temperature."""

    def loss(self, features: Any) -> Any:
        loss, metrics = super().loss(features)
        return loss - 1000 * self.logit_scale.float().sum(), metrics


def spread_all_weights() -> None:
    """At ZeRO 3 deepspeed leaves small parameters whole, and all of this model's are small."""
    configure = engine_module._configuration

    def configure_without_threshold(*arguments: Any) -> Any:
        config = configure(*arguments)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    engine_module._configuration = configure_without_threshold


def build_named(name: str) -> Objective:
    tokens = TokenLayout(num_tokens=64, context=8, begin_id=1, end_id=3, pad_id=0)
    build = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=tokens)
    if name == "catlip":
        return build_objective(CatlipSpec(name="catlip"), build, np.full(NUM_CONCEPTS, 0.2))
    start = 96.0 if name == "rising" else 1 / 0.07
    objective = build_objective(ClipSpec(name="clip", initial_scale=start, max_scale=MAX_SCALE), build)
    if name == "rising":
        objective.__class__ = RisingClip
    return objective


def global_batch(step: int) -> Batch:
    rng = np.random.default_rng(step)
    tokens = rng.integers(4, 64, (GLOBAL_SIZE, 8), dtype=np.int32)
    tokens[:, 0], tokens[:, 6], tokens[:, 7] = 1, 3, 0
    concepts = np.stack([rng.permutation(NUM_CONCEPTS)[:3] for _ in range(GLOBAL_SIZE)]).astype(np.int32)
    image = rng.integers(0, 256, (GLOBAL_SIZE, 32, 32, 3), dtype=np.uint8)
    batch = {"image": image, "tokens": tokens, "concepts": concepts}
    return {name: torch.from_numpy(column) for name, column in batch.items()}


@dataclass
class Run:
    """What one rank of a run is made of."""

    engine: DeepSpeedEngine
    ema: Ema
    checkpoints: Checkpoints

    def train(self, first: int, stop: int) -> list[dict[str, Tensor]]:
        rank, size = dist.get_rank(), GLOBAL_SIZE // dist.get_world_size()
        metrics = []
        for step in range(first, stop):
            batch = {name: column[rank * size : (rank + 1) * size] for name, column in global_batch(step).items()}
            metrics.append(train_step(self.engine, [batch]).metrics)
            self.ema.update()
        return metrics

    def weights(self) -> Record:
        """What the next step would start from, this rank's part."""
        record: Record = {"updates": self.engine.partition.num_updates, "rate": self.engine.learning_rate}
        for fragment, average in zip(self.engine.partition.fragments, self.ema.averages, strict=True):
            key = (fragment.name, fragment.start)
            record[key] = [part.clone() for part in (fragment.master, *fragment.moments.values(), average)]
        return record

    def features(self) -> Tensor:
        with self.engine.gathered() as objective:
            return objective.vision_features(global_batch(0)["image"])


@contextmanager
def opened(name: str, precision: str, stage: int, store: Store, learning_rate: float = 1e-3) -> Any:
    world_size = dist.get_world_size()
    size = GLOBAL_SIZE // world_size
    batch = BatchPlan(global_size=GLOBAL_SIZE, worker_size=size, micro_size=size, num_micro=1)
    optimizer = OptimizerSpec(learning_rate=learning_rate, gradient_clip=1.0)
    engine = DeepSpeedEngine(
        build_named(name), optimizer, ScheduleSpec(), 2 * NUM_STEPS, precision, stage, batch, "cpu"
    )
    run = Run(engine, Ema(engine.partition, 0.9), Checkpoints(store, SPEC, dist.get_rank(), world_size))
    yield run
    run.checkpoints.close()
    engine.close()


def store_of(folder: Path, name: str, precision: str, stage: int) -> Store:
    return open_store(str(folder / f"{name}-{precision}-{stage}"))


def record_straight(folder: Path, precision: str, stage: int) -> Record:
    """Six steps, with a checkpoint after three, and after another start from there."""
    store = store_of(folder, "clip", precision, stage)
    with opened("clip", precision, stage, store) as run:
        run.train(0, SAVED_STEP)
        _, blocked_s = run.checkpoints.save(run.engine, run.ema, SAVED_STEP, {"note": "kept"}, score=0.5)
        run.train(SAVED_STEP, NUM_STEPS)
        straight, features = run.weights(), run.features()
    dist.barrier()
    with opened("clip", precision, stage, store) as run:
        record = run.checkpoints.restore(run.engine, run.ema)
        run.train(SAVED_STEP, NUM_STEPS)
        resumed, features_resumed = run.weights(), run.features()
        run.checkpoints.save(run.engine, run.ema, NUM_STEPS, {}, wait=True)
        completed = [saved.step for saved in run.checkpoints.take_completed()]
    return {
        "straight": straight,
        "resumed": resumed,
        "features": features,
        "features_resumed": features_resumed,
        "found": (record.step, record.state, record.score, blocked_s >= 0),
        "completed": completed,
    }


def record_rising(folder: Path, precision: str, stage: int) -> Record:
    """Ten steps that push the temperature over its bound; ``parts`` of the master lie on one rank each."""
    store = store_of(folder, "rising", precision, stage)
    with opened("rising", precision, stage, store, learning_rate=2e-2) as run:
        metrics = run.train(0, 10)
        run.checkpoints.save(run.engine, run.ema, 10, {}, wait=True)
        own = [f.master.item() for f in run.engine.partition.fragments if f.name == "logit_scale"]
    masters: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(masters, own)
    return {
        "forward": [float(one["logit_scale"]) for one in metrics],
        "masters": [value for part in masters for value in part],
    }


def record_elsewhere(folder: Path, precision: str, written_at: int, stage: int) -> Record:
    """Goes on from a checkpoint of other ranks and perhaps of another stage."""
    with opened("clip", precision, stage, store_of(folder, "clip", precision, written_at)) as run:
        # The run's last checkpoint is the end; what is taken up here is the one before.
        if dist.get_rank() == 0:
            (folder / f"clip-{precision}-{written_at}/checkpoints/step-00000006/COMPLETE.json").unlink(missing_ok=True)
        dist.barrier()
        step = run.checkpoints.restore(run.engine, run.ema).step
        run.train(step, NUM_STEPS)
        return {"step": step, "features": run.features(), "weights": run.weights()}


def run_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    spread_all_weights()
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    records: dict[Any, Record] = {}
    for stage in STAGES:
        for precision in PRECISIONS:
            if world_size == NUM_WRITERS:
                records["straight", stage, precision] = record_straight(folder, precision, stage)
                records["rising", stage, precision] = record_rising(folder, precision, stage)
            else:
                records[stage, precision] = record_elsewhere(folder, precision, WRITTEN_AT[stage], stage)
    if world_size == NUM_WRITERS:
        with opened("catlip", "fp32", 1, store_of(folder, "catlip", "fp32", 1)) as run:
            run.train(0, 1)
            run.checkpoints.save(run.engine, run.ema, 1, {}, wait=True)
            records["catlip"] = {"features": run.features()}
    torch.save(records, folder / f"of-{world_size}-{rank}.pt")
    dist.destroy_process_group()


@dataclass(frozen=True)
class Written:
    """What ranks left: their records by rank, and the run folders."""

    folder: Path
    records: list[dict[Any, Record]]


def load_records(folder: Path, world_size: int) -> list[dict[Any, Record]]:
    return [torch.load(folder / f"of-{world_size}-{rank}.pt", weights_only=True) for rank in range(world_size)]


@pytest.fixture(scope="module")
def written(run_ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """By the first ranks."""
    folder = tmp_path_factory.mktemp("runs")
    run_ranks(__file__, NUM_WRITERS, folder)
    return Written(folder, load_records(folder, NUM_WRITERS))


@pytest.fixture(scope="module")
def elsewhere(written: Written, run_ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """By new processes, from a copy of what the first wrote."""
    folder = tmp_path_factory.mktemp("moved") / "runs"
    shutil.copytree(written.folder, folder)
    run_ranks(__file__, NUM_READERS, folder)
    return Written(folder, load_records(folder, NUM_READERS))


def newest(folder: Path, name: str, precision: str, stage: int) -> tuple[Store, StoredCheckpoint]:
    store = store_of(folder, name, precision, stage)
    stored = find_stored(store)
    assert stored is not None
    return store, stored


every_stage = pytest.mark.parametrize("stage", STAGES)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


@every_stage
@every_precision
def test_going_on_from_a_checkpoint_gives_the_same_bits_as_not_stopping(written, stage, precision):
    for of_rank in written.records:
        record = of_rank["straight", stage, precision]
        assert record["straight"].keys() == record["resumed"].keys()
        for key, expected in record["straight"].items():
            torch.testing.assert_close(record["resumed"][key], expected, rtol=0, atol=0)
        assert torch.equal(record["features"], record["features_resumed"])
        assert record["found"] == (SAVED_STEP, {"note": "kept"}, 0.5, True)
        assert record["completed"] == ([NUM_STEPS] if of_rank is written.records[0] else [])


@every_stage
@every_precision
def test_other_processes_of_another_number_and_stage_go_on_as_well(written, elsewhere, stage, precision):
    other = WRITTEN_AT[stage]
    straight = written.records[0]["straight", other, precision]
    expected = load_weights(*newest(written.folder, "clip", precision, other), average=False)
    expected_average = load_weights(*newest(written.folder, "clip", precision, other), average=True)
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    for of_rank in elsewhere.records:
        record = of_rank[stage, precision]
        assert record["step"] == SAVED_STEP
        weights = record["weights"]
        assert (weights.pop("updates"), weights.pop("rate")) == (NUM_STEPS, straight["straight"]["rate"])
        for (name, start), (master, _, _, average) in weights.items():
            span = slice(start, start + len(master))
            torch.testing.assert_close(master, expected[name].flatten()[span], rtol=0, atol=tolerance)
            torch.testing.assert_close(average, expected_average[name].flatten()[span], rtol=0, atol=tolerance)


@every_stage
@every_precision
def test_the_temperature_stays_within_its_bound_wherever_it_is_kept(written, tmp_path, stage, precision):
    highest = math.log(MAX_SCALE) + 1e-6
    for of_rank in written.records:
        record = of_rank["rising", stage, precision]
        assert record["forward"][0] < 97
        assert 98 < record["forward"][-1] <= MAX_SCALE * (1 + 1e-6)
        assert max(record["forward"]) <= MAX_SCALE * (1 + 1e-6)
        assert record["masters"]
        assert all(value == pytest.approx(math.log(MAX_SCALE)) for value in record["masters"])
    store, stored = newest(written.folder, "rising", precision, stage)
    assert 4.5 < load_weights(store, stored, average=False)["logit_scale"].item() <= highest
    assert 4.5 < load_weights(store, stored, average=True)["logit_scale"].item() <= highest
    export_checkpoint(store, stored, build_named("clip"), tmp_path, "raw")
    assert 4.5 < CLIPModel.from_pretrained(tmp_path).logit_scale.item() <= highest


@every_stage
def test_an_exported_clip_model_sees_what_the_objective_saw(written, tmp_path, stage):
    store, stored = newest(written.folder, "clip", "fp32", stage)
    export_checkpoint(store, stored, build_named("clip"), tmp_path, "raw")
    model = CLIPModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        seen = model.vision_model(pixel_values=normalize_pixels(global_batch(0)["image"])).pooler_output
    torch.testing.assert_close(seen, written.records[0]["straight", stage, "fp32"]["features_resumed"])


def test_an_exported_catlip_model_sees_what_the_objective_saw_and_its_classifier_lies_beside(written, tmp_path):
    store, stored = newest(written.folder, "catlip", "fp32", 1)
    export_checkpoint(store, stored, build_named("catlip"), tmp_path, "raw")
    model = CLIPVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        seen = model(pixel_values=normalize_pixels(global_batch(0)["image"])).pooler_output
    torch.testing.assert_close(seen, written.records[0]["catlip"]["features"])
    head = load_file(tmp_path / HEAD_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {
        "classifier.weight": (NUM_CONCEPTS, 32),
        "classifier.bias": (NUM_CONCEPTS,),
    }


def test_the_average_is_exported_where_it_is_asked_for(written, tmp_path):
    store, stored = newest(written.folder, "clip", "fp32", 1)
    export_checkpoint(store, stored, build_named("clip"), tmp_path, "ema")
    exported = CLIPModel.from_pretrained(tmp_path).state_dict()["visual_projection.weight"]
    average = load_weights(store, stored, average=True)["vision.visual_projection.weight"]
    assert torch.equal(exported, average)
    assert not torch.equal(average, load_weights(store, stored, average=False)["vision.visual_projection.weight"])


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
