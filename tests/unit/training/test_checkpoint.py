"""Checkpoints of one rank over a plain module: folders, retention, background upload. Ranks: tests/distributed."""

import hashlib
import itertools
import json
import logging
import pickle
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.errors import CheckpointError, RunNotFoundError, ShardReadError, StorageAccessError
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.spec.optimizer import GuardSpec
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import Store
from orchestrator.training import checkpoint as checkpoint_module
from orchestrator.training.checkpoint import Checkpoints
from orchestrator.training.checkpoint_folders import (
    HELDOUT,
    find_checkpoint,
    find_checkpoint_of,
    find_stored,
    keep_promoted,
    read_attachment,
    release_promoted,
)
from orchestrator.training.ema import Ema
from orchestrator.training.guard import StepGuard
from orchestrator.training.partition import ReplicatedPartition
from orchestrator.training.stored_tensors import load_weights


class PlainEngine:
    """What a checkpoint reads of an engine, over a module in bare torch."""

    def __init__(self, *widths: int) -> None:
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        module = nn.Sequential(*layers)
        self.partition = ReplicatedPartition(module, torch.optim.AdamW(module.parameters()))
        self.shapes = {name: list(parameter.shape) for name, parameter in module.named_parameters()}
        self.steps_taken, self.loss_scale = 0, 1.0
        self.guard = StepGuard(GuardSpec())

    def fill(self, value: float) -> None:
        for fragment in self.partition.fragments:
            fragment.master.fill_(value)


@dataclass(frozen=True)
class SlowStore(LocalStore):
    """Uploads wait until they may."""

    may_upload: threading.Event = field(default_factory=threading.Event)

    def upload(self, local_path: Path | str, path: str) -> None:
        assert self.may_upload.wait(timeout=30)
        super().upload(local_path, path)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "run"))


@pytest.fixture
def engine() -> PlainEngine:
    return PlainEngine(2, 3)


def opened(store: Store, world_size: int = 1, **spec: Any) -> Checkpoints:
    return Checkpoints(store, CheckpointSpec(**spec), rank=0, world_size=world_size)


def save_steps(store: Store, engine: Any, scores: dict[int, float | None], heldout: str = "", **spec: Any) -> None:
    state = {HELDOUT: heldout} if heldout else {}
    checkpoints = opened(store, **spec)
    for step, score in scores.items():
        engine.fill(step)
        engine.steps_taken = step
        checkpoints.save(engine, None, step, {"note": step, **state}, score=score, wait=True)
    checkpoints.close()


def steps_in(store: LocalStore) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in Path(store.uri, "checkpoints").iterdir())


def folder_of(store: LocalStore, step: int) -> Path:
    return Path(store.uri, f"checkpoints/step-{step:08d}")


def test_a_run_without_checkpoints_starts_at_the_beginning(store, engine):
    assert find_checkpoint(store) is None
    assert opened(store).restore(engine, None) is None


def test_attachments_lie_beside_the_tensors_and_are_checked(store, engine):
    opened(store).save(engine, None, 7, {}, wait=True, attachments={"ledger.parquet": b"rows"})
    stored = find_stored(store)
    assert read_attachment(store, stored, "ledger.parquet") == b"rows"
    assert read_attachment(store, stored, "other") is None
    store.write_bytes(f"{stored.record.folder}/ledger.parquet", b"ROWS")
    with pytest.raises(CheckpointError, match=r"ledger\.parquet is damaged"):
        read_attachment(store, stored, "ledger.parquet")


def test_restoring_takes_up_weights_counts_and_the_run_s_own_state(store, engine):
    ema = Ema(engine.partition, 0.9)
    engine.fill(1.0)
    ema.update()
    engine.steps_taken, engine.loss_scale, engine.partition.num_updates = 7, 128.0, 6
    opened(store).save(engine, ema, 7, {"skipped": {"image_missing": 3}}, wait=True)
    other = PlainEngine(2, 3)
    other_ema = Ema(other.partition, 0.9)
    record = opened(store).restore(other, other_ema).record
    assert (record.step, record.state) == (7, {"skipped": {"image_missing": 3}})
    assert record.uri == f"{store.uri}/checkpoints/step-00000007"
    assert (other.steps_taken, other.loss_scale, other.partition.num_updates) == (7, 128.0, 6)
    assert other_ema.num_updates == 1
    for ours, theirs in zip(ema.averages, other_ema.averages, strict=True):
        assert torch.equal(ours, theirs)
    assert all(fragment.master.tolist() == [1.0] * fragment.numel for fragment in other.partition.fragments)


@pytest.mark.parametrize("damage", ["no marker", "short file", "state is no JSON", "state of another version"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_the_log_says_so(store, engine, damage, caplog):
    save_steps(store, engine, {3: None, 6: None})
    folder = folder_of(store, 6)
    state = (folder / "state.json").read_bytes()
    match damage:
        case "no marker":
            (folder / "COMPLETE.json").unlink()
        case "short file":
            next(folder.glob("*.safetensors")).write_bytes(b"half")
        case "state is no JSON":
            (folder / "state.json").write_bytes(state.replace(b"{", b"[", 1))
        case "state of another version":
            (folder / "state.json").write_bytes(state.replace(b'"version": 1', b'"version": 9'))
    with caplog.at_level(logging.WARNING):
        record = opened(store).restore(engine, None).record
    assert (record.step, engine.steps_taken) == (3, 3)
    assert "step-00000006 does not count" in caplog.text
    assert "going back to step 3" in caplog.text


def test_a_damaged_tensor_file_is_named_and_nothing_is_taken_from_it(store, engine):
    save_steps(store, engine, {3: None})
    file = next(folder_of(store, 3).glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"step-00000003/{file.name} is damaged"):
        opened(store).restore(engine, None)


def test_weights_of_another_model_are_refused_by_the_names_that_do_not_fit(store, engine):
    save_steps(store, engine, {3: None})
    with pytest.raises(CheckpointError, match=r"step-00000003 .*'1\.bias', '1\.weight'"):
        opened(store).restore(PlainEngine(2, 3, 4), None)


def test_an_average_that_was_never_kept_is_not_made_up(store, engine):
    save_steps(store, engine, {3: None})
    with pytest.raises(CheckpointError, match="holds no average"):
        opened(store).restore(engine, Ema(engine.partition, 0.9))
    stored = find_stored(store)
    with pytest.raises(CheckpointError, match="holds no average"):
        load_weights(store, stored, average=True)


def test_whole_weights_come_back_in_their_shapes(store, engine):
    save_steps(store, engine, {3: None})
    weights = load_weights(store, find_stored(store), average=False)
    assert {name: list(weight.shape) for name, weight in weights.items()} == engine.shapes
    assert weights["0.weight"].tolist() == [[3.0, 3.0]] * 3


def test_the_newest_and_the_best_are_kept(store, engine):
    scores = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.7, 5: float("nan"), 6: None}
    save_steps(store, engine, scores, keep_last=2, keep_best=True)
    assert steps_in(store) == [2, 5, 6]
    save_steps(store, engine, {7: 0.5}, keep_last=1, keep_best=False)
    assert steps_in(store) == [7]


def test_scores_on_other_heldout_samples_are_not_compared(store, engine):
    save_steps(store, engine, {1: 0.3}, keep_last=9)  # an earlier version's, which may be of the same samples
    save_steps(store, engine, {2: 0.1}, heldout="few", keep_last=9)
    save_steps(store, engine, {3: 0.5, 4: 0.7}, heldout="many", keep_last=1)
    assert steps_in(store) == [1, 4]
    save_steps(store, engine, {5: 0.2, 6: 0.4, 7: None}, heldout="many", keep_last=1)
    assert steps_in(store) == [5, 7]
    assert find_checkpoint_of(store, "best").record.step == 5


def test_those_of_named_steps_are_kept_for_other_runs(store, engine):
    scores = dict.fromkeys(range(1, 6))
    save_steps(store, engine, scores, keep_last=1, keep_best=False, keep_steps=(2, 3, 9))
    assert steps_in(store) == [2, 3, 5]


def test_a_run_starts_from_a_step_of_another_and_goes_on_from_its_own(store, engine, tmp_path):
    save_steps(store, engine, {2: None, 4: None}, keep_last=9)
    own = LocalStore(str(tmp_path / "branch"))
    with pytest.raises(RunNotFoundError, match=r"of step 3; it has those of steps 2, 4$"):
        opened(own).start_from(store, 3, engine, None)
    assert opened(own).start_from(store, 2, engine, None).record.step == 2
    assert {float(part.master.mean()) for part in engine.partition.fragments} == {2.0}
    assert engine.steps_taken == 2
    save_steps(own, engine, {3: None})
    assert opened(own).restore(engine, None).record.step == 3


def test_a_checkpoint_is_chosen_by_name_or_step(store, engine):
    save_steps(store, engine, {1: None}, keep_last=9)
    with pytest.raises(RunNotFoundError, match="with a held-out loss"):
        find_checkpoint_of(store, "best")
    save_steps(store, engine, {2: 0.1, 3: 0.8, 4: float("nan")}, keep_last=9)
    chosen = {name: find_checkpoint_of(store, name).record.step for name in ("last", "best", 3)}
    assert chosen == {"last": 4, "best": 2, 3: 3}
    with pytest.raises(RunNotFoundError, match=r"of step 7; it has those of steps 1, 2, 3, 4$"):
        find_checkpoint_of(store, 7)


def test_what_is_promoted_stays_and_what_goes_is_said(store, engine):
    keep_promoted(store, "clip/b16", "champion", 1)
    checkpoints = opened(store, keep_last=1, keep_best=False)
    for step in (1, 2, 3):
        engine.fill(step)
        engine.steps_taken = step
        checkpoints.save(engine, None, step, {}, wait=True)
    assert steps_in(store) == [1, 3]
    assert [uri.rpartition("-")[2] for uri in checkpoints.take_removed()] == ["00000002"]
    assert checkpoints.take_removed() == []
    checkpoints.close()
    release_promoted(store, "clip/b16", "champion")
    save_steps(store, engine, {4: None}, keep_last=1, keep_best=False)
    assert steps_in(store) == [4]


def test_older_folders_that_never_became_complete_go_and_newer_ones_stay(store, engine):
    save_steps(store, engine, {2: None, 9: None}, keep_last=5)
    for step in (2, 9):
        (folder_of(store, step) / "COMPLETE.json").unlink()
    save_steps(store, engine, {5: None}, keep_last=5)
    assert steps_in(store) == [5, 9]


def test_training_goes_on_during_an_upload_and_the_next_checkpoint_waits_for_it(tmp_path, engine):
    slow = SlowStore(str(tmp_path / "run"))
    checkpoints = opened(slow)
    engine.fill(1.0)
    checkpoints.save(engine, None, 1, {})
    engine.fill(2.0)
    assert checkpoints.take_completed() == []
    second = threading.Thread(target=checkpoints.save, args=(engine, None, 2, {}), kwargs={"wait": True})
    second.start()
    second.join(timeout=0.2)
    assert second.is_alive()
    assert not folder_of(slow, 1).exists()
    slow.may_upload.set()
    second.join()
    assert [record.step for record in checkpoints.take_completed()] == [1, 2]
    shutil.rmtree(folder_of(slow, 2))
    assert load_weights(slow, find_stored(slow), average=False)["0.bias"].tolist() == [1.0] * 3


def test_a_failed_upload_is_raised_by_the_next_call(tmp_path, engine):
    (tmp_path / "run").write_text("a file where the folder should be")
    checkpoints = opened(LocalStore(str(tmp_path / "run")))
    checkpoints.save(engine, None, 1, {})
    with pytest.raises(StorageAccessError, match="run"):
        checkpoints.save(engine, None, 2, {})
    with pytest.raises(StorageAccessError, match="run"):
        checkpoints.save(engine, None, 3, {}, wait=True)


def test_a_failed_upload_at_the_very_end_is_logged(tmp_path, engine, caplog):
    (tmp_path / "run").write_text("a file where the folder should be")
    checkpoints = opened(LocalStore(str(tmp_path / "run")))
    checkpoints.save(engine, None, 1, {})
    checkpoints.close()
    assert "the last checkpoint is not complete" in caplog.text


def test_a_checkpoint_is_complete_though_an_older_one_cannot_be_removed(store, engine, monkeypatch, caplog):
    def refuse(*_):
        raise ShardReadError("step-00000001: Directory not empty")

    monkeypatch.setattr(checkpoint_module, "prune_checkpoints", refuse)
    checkpoints = opened(store)
    for step in (1, 2):
        checkpoints.save(engine, None, step, {}, wait=True)
    assert [record.step for record in checkpoints.take_completed()] == [1, 2]
    assert "an old checkpoint could not be removed: step-00000001: Directory not empty" in caplog.text


def test_who_leaves_a_run_to_another_holder_completes_and_removes_nothing(tmp_path, engine):
    slow = SlowStore(str(tmp_path / "run"))
    slow.may_upload.set()
    checkpoints = opened(slow, keep_last=1)
    checkpoints.save(engine, None, 1, {}, wait=True)
    slow.may_upload.clear()
    checkpoints.save(engine, None, 2, {})
    checkpoints.leave()
    slow.may_upload.set()
    checkpoints.close()
    assert find_stored(slow).record.step == 1
    assert folder_of(slow, 1).exists()


def test_copies_that_a_killed_attempt_left_on_the_node_are_removed(store, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as a kill: nothing is cleared up
    opened(store).save(engine, None, 1, {}, wait=True)
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (other := tmp_path / "checkpoint-of-another-run").mkdir()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    opened(store)
    assert list(tmp_path.glob("checkpoint-*")) == [other]


def test_without_the_word_of_every_rank_a_checkpoint_never_counts(store, engine, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_OTHER_RANKS_TIMEOUT_S", 0.1)
    with pytest.raises(CheckpointError, match=r"step-00000001: files of ranks \[1\] did not come"):
        opened(store, world_size=2).save(engine, None, 1, {}, wait=True)
    assert find_checkpoint(store) is None


def test_what_an_earlier_attempt_left_in_the_folder_is_not_mixed_in(store, engine, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_CLOSING_TIMEOUT_S", 0.1)
    dying = opened(store, world_size=2)
    engine.fill(1.0)
    dying.save(engine, None, 4, {})
    dying.close()
    assert find_checkpoint(store) is None
    save_steps(store, engine, {4: None})
    weights = load_weights(store, find_stored(store), average=False)
    assert all(weight.eq(4.0).all() for weight in weights.values())


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, footprint: Path) -> None:
        self.footprint = footprint

    def __reduce__(self) -> Any:
        return (Path.touch, (self.footprint,))


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """A pickle that must not be executed."""
    footprint = tmp_path / "footprint"
    yield pickle.dumps(Trap(footprint))
    assert not footprint.exists()


def test_a_pickle_in_the_place_of_tensors_is_refused_and_never_executed(store, engine, trap):
    save_steps(store, engine, {3: None})
    file = next(folder_of(store, 3).glob("*.safetensors"))
    file.write_bytes(trap.ljust(file.stat().st_size, b"."))
    with pytest.raises(CheckpointError, match=rf"step-00000003/{file.name} is damaged"):
        opened(store).restore(engine, None)


def test_a_pickle_that_the_marker_vouches_for_is_no_tensor_file(store, engine, trap):
    save_steps(store, engine, {3: None})
    file = next(folder_of(store, 3).glob("*.safetensors"))
    file.write_bytes(trap)
    marker = file.with_name("COMPLETE.json")
    content = json.loads(marker.read_text())
    entry = next(entry for entry in content["files"] if entry["path"] == file.name)
    entry |= {"size_bytes": len(trap), "sha256": hashlib.sha256(trap).hexdigest()}
    marker.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=file.name):
        opened(store).restore(engine, None)


def test_a_pickle_beside_the_files_of_a_checkpoint_is_not_touched(store, engine, trap):
    save_steps(store, engine, {3: None})
    (folder_of(store, 3) / "model_states.pt").write_bytes(trap)
    assert opened(store).restore(engine, None).record.step == 3
