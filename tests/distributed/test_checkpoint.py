"""Checkpoints at ZeRO 0-3: training goes on as if it had never stopped, at any world size and stage.

Run as a script, this file is one rank. Two ranks train and write, then three new processes take up what they wrote.
"""

import math
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel, CLIPVisionModel

from orchestrator.data.blocks import BlockFormat
from orchestrator.models.pixels import normalize_pixels
from orchestrator.objectives.clip import ClipObjective
from orchestrator.objectives.objective import Objective
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.spec.optimizer import FreezeSpec, OptimizerSpec, ScheduleSpec
from orchestrator.spec.presets import CLIP_PIXELS
from orchestrator.storage.store import Store, open_store
from orchestrator.training.checkpoint import Checkpoints
from orchestrator.training.checkpoint_folders import StoredCheckpoint, find_stored
from orchestrator.training.ema import Ema
from orchestrator.training.engine import DeepSpeedEngine, Precision
from orchestrator.training.export import HEAD_FILE, export_checkpoint
from orchestrator.training.judge import JudgedObjective
from orchestrator.training.step import train_step
from orchestrator.training.stored_tensors import load_weights
from ranks import Stage, build_engine, leave_record, micro_batches, process_group, set_up_deepspeed
from tiny import NUM_CONCEPTS, TINY_PLAN, build_tiny, global_batch

SAVED_STEP, NUM_STEPS = 3, 6
NUM_WRITERS, NUM_READERS = 2, 3
MAX_SCALE = 100.0
STAGES: tuple[Stage, ...] = (3, 2, 1, 0)  # 0 last: its autocast stays on in a process
WRITTEN_AT: dict[Stage, Stage] = {3: 0, 2: 3, 1: 2, 0: 1}
"""By the stage that reads, the stage whose checkpoint it takes up."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
SPEC = CheckpointSpec(keep_last=2)

Record = dict[str, Any]


class RisingClip(ClipObjective):
    """Wants nothing more than a higher temperature."""

    def loss(self, features: Any) -> Any:
        loss, metrics = super().loss(features)
        return loss - 1000 * self.logit_scale.float().sum(), metrics


def build_named(name: str) -> Objective:
    if name != "rising":
        return build_tiny(name)
    objective = build_tiny("clip", initial_scale=96.0, max_scale=MAX_SCALE)
    objective.__class__ = RisingClip
    return objective


def copy_judged(objective: Objective) -> Objective:
    """As the fine-tuning probe copies it."""
    read = BlockFormat((), 32, context=8, max_concepts=0, tokenizer=None, labeller=None)
    judged = JudgedObjective(objective, lambda: build_tiny("clip"), read, 0.5, torch.device("cpu"))
    return judged.copy_objective(trained=True).eval()


@dataclass
class Run:
    """What one rank of a run is made of."""

    engine: DeepSpeedEngine
    ema: Ema
    checkpoints: Checkpoints

    def train(self, first: int, stop: int) -> list[dict[str, Tensor]]:
        metrics = []
        for step in range(first, stop):
            metrics.append(train_step(self.engine, micro_batches(step)).metrics)
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

    def features_of_copy(self) -> Tensor:
        """What fine-tuning would start from."""
        with self.engine.gathered() as objective:
            return copy_judged(objective).vision_features(global_batch(0)["image"])


@contextmanager
def opened(name: str, precision: Precision, stage: Stage, store: Store, learning_rate: float = 1e-3) -> Any:
    freeze = {"vision": FreezeSpec(layers=1)}
    optimizer = OptimizerSpec(learning_rate=learning_rate, gradient_clip=1.0, freeze=freeze)
    engine = build_engine(build_named(name), optimizer, ScheduleSpec(), 2 * NUM_STEPS, precision, stage)
    checkpoints = Checkpoints(store, SPEC, dist.get_rank(), dist.get_world_size())
    run = Run(engine, Ema(engine.partition, 0.9), checkpoints)
    yield run
    run.checkpoints.close()
    engine.close()


def store_of(folder: Path, name: str, precision: str, stage: int) -> Store:
    return open_store(str(folder / f"{name}-{precision}-{stage}"))


def record_straight(folder: Path, precision: Precision, stage: Stage) -> Record:
    """Six steps, with a checkpoint after three, and after another start from there."""
    store = store_of(folder, "clip", precision, stage)
    with opened("clip", precision, stage, store) as run:
        run.train(0, SAVED_STEP)
        _, blocked_s = run.checkpoints.save(run.engine, run.ema, SAVED_STEP, {"note": "kept"}, score=0.5)
        run.train(SAVED_STEP, NUM_STEPS)
        straight, features, features_of_copy = run.weights(), run.features(), run.features_of_copy()
    dist.barrier()
    with opened("clip", precision, stage, store) as run:
        for fragment in run.engine.partition.fragments:
            fragment.master.zero_()  # what is never trained is restored as well
        record = run.checkpoints.restore(run.engine, run.ema).record
        run.train(SAVED_STEP, NUM_STEPS)
        resumed, features_resumed = run.weights(), run.features()
        run.checkpoints.save(run.engine, run.ema, NUM_STEPS, {}, wait=True)
        completed = [saved.step for saved in run.checkpoints.take_completed()]
        branched = record_branch(run, store, store_of(folder, "branch", precision, stage))
    return {
        "straight": straight,
        "resumed": resumed,
        "branched": branched,
        "features": features,
        "features_of_copy": features_of_copy,
        "features_resumed": features_resumed,
        "found": (record.step, record.state, record.score, blocked_s >= 0),
        "completed": completed,
    }


def record_branch(run: Run, trunk: Store, own: Store) -> Record:
    """The same three steps as another run that starts from the first checkpoint, and not from the newest."""
    for fragment in run.engine.partition.fragments:
        fragment.master.zero_()
    branch = Checkpoints(own, SPEC, dist.get_rank(), dist.get_world_size())
    assert branch.restore(run.engine, run.ema) is None
    first = branch.start_from(trunk, SAVED_STEP, run.engine, run.ema).record.step
    run.train(first, NUM_STEPS)
    branch.close()
    return run.weights()


def record_rising(folder: Path, precision: Precision, stage: Stage) -> Record:
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


def record_elsewhere(folder: Path, precision: Precision, written_at: Stage, stage: Stage) -> Record:
    """Goes on from a checkpoint of other ranks and perhaps of another stage."""
    with opened("clip", precision, stage, store_of(folder, "clip", precision, written_at)) as run:
        # The run's last checkpoint is the end; what is taken up here is the one before.
        if dist.get_rank() == 0:
            (folder / f"clip-{precision}-{written_at}/checkpoints/step-00000006/COMPLETE.json").unlink(missing_ok=True)
        dist.barrier()
        step = run.checkpoints.restore(run.engine, run.ema).record.step
        run.train(step, NUM_STEPS)
        return {"step": step, "features": run.features(), "weights": run.weights()}


def record_writer(folder: Path) -> dict[Any, Record]:
    records: dict[Any, Record] = {}
    for stage in STAGES:
        for precision in PRECISIONS:
            records["straight", stage, precision] = record_straight(folder, precision, stage)
            records["rising", stage, precision] = record_rising(folder, precision, stage)
    with opened("catlip", "fp32", 1, store_of(folder, "catlip", "fp32", 1)) as run:
        run.train(0, 1)
        run.checkpoints.save(run.engine, run.ema, 1, {}, wait=True)
        records["catlip"] = {"features": run.features()}
    return records


def record_reader(folder: Path) -> dict[Any, Record]:
    return {
        (stage, precision): record_elsewhere(folder, precision, WRITTEN_AT[stage], stage)
        for stage in STAGES
        for precision in PRECISIONS
    }


def run_rank(folder: Path) -> None:
    set_up_deepspeed()
    with process_group("all"):
        writes = dist.get_world_size() == NUM_WRITERS
        records = record_writer(folder) if writes else record_reader(folder)
    leave_record(folder, records)


@dataclass(frozen=True)
class Written:
    """What ranks left: their records by rank, and the run folders."""

    folder: Path
    records: list[dict[Any, Record]]


@pytest.fixture(scope="module")
def written(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """By the first ranks."""
    folder = tmp_path_factory.mktemp("runs")
    return Written(folder, run_ranks(__file__, NUM_WRITERS, folder))


@pytest.fixture(scope="module")
def elsewhere(
    written: Written, run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Written:
    """By new processes, from a copy of what the first wrote."""
    folder = tmp_path_factory.mktemp("moved") / "runs"
    shutil.copytree(written.folder, folder)
    return Written(folder, run_ranks(__file__, NUM_READERS, folder))


def newest(folder: Path, name: str, precision: str, stage: int) -> tuple[Store, StoredCheckpoint]:
    store = store_of(folder, name, precision, stage)
    stored = find_stored(store)
    assert stored is not None
    return store, stored


every_stage = pytest.mark.parametrize("stage", STAGES)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


@every_stage
@every_precision
def test_going_on_from_a_checkpoint_here_or_in_another_run_gives_the_same_bits_as_not_stopping(
    written, stage, precision
):
    for of_rank in written.records:
        record = of_rank["straight", stage, precision]
        for again in (record["resumed"], record["branched"]):
            assert record["straight"].keys() == again.keys()
            for key, expected in record["straight"].items():
                torch.testing.assert_close(again[key], expected, rtol=0, atol=0)
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
        for (name, start), (master, *_, average) in weights.items():
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
    export_checkpoint(store, stored, build_named("clip"), TINY_PLAN, tmp_path, "raw")
    assert 4.5 < CLIPModel.from_pretrained(tmp_path).logit_scale.item() <= highest


@every_stage
def test_fine_tuning_starts_from_whole_weights_whatever_the_stage(written, stage):
    objective = build_named("clip")
    objective.load_state_dict(load_weights(*newest(written.folder, "clip", "fp32", stage), average=False))
    with torch.no_grad():
        asked_again = copy_judged(objective).vision_features(global_batch(0)["image"])
    for of_rank in written.records:
        record = of_rank["straight", stage, "fp32"]
        torch.testing.assert_close(record["features_of_copy"], record["features"])
        torch.testing.assert_close(asked_again, record["features"])


@every_stage
def test_an_exported_clip_model_sees_what_the_objective_saw(written, tmp_path, stage):
    store, stored = newest(written.folder, "clip", "fp32", stage)
    export_checkpoint(store, stored, build_named("clip"), TINY_PLAN, tmp_path, "raw")
    model = CLIPModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        seen = model.vision_model(pixel_values=normalize_pixels(global_batch(0)["image"], CLIP_PIXELS)).pooler_output
    torch.testing.assert_close(seen, written.records[0]["straight", stage, "fp32"]["features_resumed"])


def test_an_exported_catlip_model_sees_what_the_objective_saw_and_its_classifier_lies_beside(written, tmp_path):
    store, stored = newest(written.folder, "catlip", "fp32", 1)
    export_checkpoint(store, stored, build_named("catlip"), TINY_PLAN, tmp_path, "raw")
    model = CLIPVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        seen = model(pixel_values=normalize_pixels(global_batch(0)["image"], CLIP_PIXELS)).pooler_output
    torch.testing.assert_close(seen, written.records[0]["catlip"]["features"])
    head = load_file(tmp_path / HEAD_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {
        "classifier.weight": (NUM_CONCEPTS, 32),
        "classifier.bias": (NUM_CONCEPTS,),
    }


def test_the_average_is_exported_where_it_is_asked_for(written, tmp_path):
    store, stored = newest(written.folder, "clip", "fp32", 1)
    export_checkpoint(store, stored, build_named("clip"), TINY_PLAN, tmp_path, "ema")
    exported = CLIPModel.from_pretrained(tmp_path).state_dict()["visual_projection.weight"]
    average = load_weights(store, stored, average=True)["vision.visual_projection.weight"]
    assert torch.equal(exported, average)
    assert not torch.equal(average, load_weights(store, stored, average=False)["vision.visual_projection.weight"])


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
