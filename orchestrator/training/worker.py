"""What runs on every worker: build, restore, loop, report. ``entry.py`` starts it; the driver hears through a link.

Reads from top to bottom: ``run_worker`` builds the parts, ``_Run.train`` is the loop, the rest is what happens
at a logged step, at a checkpoint and at the end. All ranks pass the same points in the same order.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch

from orchestrator.collectives import from_rank_zero
from orchestrator.data.blocks import unpack_block
from orchestrator.data.order import BlockLayout
from orchestrator.data.stream import BlockStream
from orchestrator.env import setup_logging
from orchestrator.errors import RunHeldError
from orchestrator.evaluation.predictions import is_judged, write_predictions
from orchestrator.spec.plan import Plan, load_plan
from orchestrator.storage.store import open_store
from orchestrator.tracking import metrics
from orchestrator.training.agreement import Agreement, Decision
from orchestrator.training.batches import TrainingBatches
from orchestrator.training.checkpoint import Checkpoints
from orchestrator.training.checkpoint_folders import (
    HELDOUT,
    LEDGER_FILE,
    CheckpointRecord,
    find_checkpoint,
    read_attachment,
)
from orchestrator.training.data_parts import block_reader
from orchestrator.training.ema import Ema
from orchestrator.training.feed import Arrays, Feed
from orchestrator.training.heldout import heldout_loss, read_plan_heldout
from orchestrator.training.initial_weights import initialize_from
from orchestrator.training.judge import judge_plan, judged_weights
from orchestrator.training.meter import Meter, memory_bytes
from orchestrator.training.nodes import NodeRanks
from orchestrator.training.parts import block_format, build_plan_engine, build_plan_objective
from orchestrator.training.reports import (
    CheckpointReport,
    DriverLink,
    EvaluationReport,
    NoteReport,
    PlaceReport,
    RemovalReport,
    Report,
    StepReport,
    Weights,
    Wish,
    WorkerResult,
)
from orchestrator.training.run_ledger import build_ledger, ledger_metrics
from orchestrator.training.spent import Spent
from orchestrator.training.step import StepResult, train_step

logger = logging.getLogger(__name__)


def run_worker(plan_json: str, link: DriverLink) -> WorkerResult:
    """Train as one rank of a Ray Train worker group.

    Raises:
        OrchestratorError: whatever ends the run by name; the driver decides about another attempt.
    """
    rank = ray.train.get_context().get_world_rank()
    setup_logging(rank=rank)
    place = ray.get_runtime_context()
    link.send(PlaceReport(rank, place.get_actor_id(), place.get_node_id()))
    plan = load_plan(plan_json, "the driver's plan")
    torch.set_num_threads(plan.workers.threads)
    run = _Run(plan, link, rank, ray.train.get_context().get_world_size())
    try:
        return run.train(run.restore())
    finally:
        run.close()


class _Run:
    """One rank's part of one attempt."""

    def __init__(self, plan: Plan, link: DriverLink, rank: int, world_size: int) -> None:
        self._plan = plan
        self._link = link
        self._rank, self._world_size = rank, world_size
        self._format = block_format(plan)
        self._store = open_store(plan.run_uri, plan.s3)
        objective = build_plan_objective(plan, self._format.vocabulary)
        if plan.init is not None and from_rank_zero(rank == 0 and find_checkpoint(self._store) is None):
            initialize_from(objective, plan.init, plan)
        self._engine = build_plan_engine(plan, objective)
        self._device = self._engine.device
        self._batches = TrainingBatches(plan, self._format.content, self._device)
        self._ema = Ema(self._engine.partition, plan.ema.decay) if plan.ema else None
        self._checkpoints = Checkpoints(self._store, plan.checkpoint, rank, world_size)
        self._nodes = NodeRanks(rank, world_size)
        self._layout = BlockLayout(plan.batch, plan.batch.micro_size, world_size)
        self._order, self._ledger = build_ledger(plan, self._nodes.place, world_size, self._device, self._store)
        self._meter, self._spent = Meter(), Spent(plan)
        self._restored: CheckpointRecord | None = None
        self._heldout = read_plan_heldout(plan, self._format)
        self._evaluation: dict[Weights, list[dict[str, Any]]] = {}
        self._last_clipped = 0
        self._samples_per_s = 0.0
        self._checkpoint_s = 0.0

    def restore(self) -> int:
        """Take up the last complete checkpoint, or what the plan starts from; returns the first step to do."""
        stored = self._checkpoints.restore(self._engine, self._ema)
        self._ledger.forget_after(stored.record.step if stored is not None else self._plan.first_step)
        if stored is None:
            return self._start()
        record = self._restored = stored.record
        self._report_checkpoint(record)  # an attempt that ended may not have told of it
        self._spent.restore(record.state)
        ledger = read_attachment(self._store, stored, LEDGER_FILE)
        if ledger is not None:
            self._ledger.restore(ledger, f"{record.uri}/{LEDGER_FILE}")
        workers = record.state.get("workers")
        change = f" ({workers} workers then, {self._world_size} now)" if workers != self._world_size else ""
        self._send(NoteReport(f"resumed from {record.uri} at step {record.step:,}{change}"))
        return record.step

    def _start(self) -> int:
        """Begin; with the state of another run where the plan says so."""
        start = self._plan.start
        if start is not None:
            store = open_store(start.run, self._plan.s3)
            stored = self._checkpoints.start_from(store, start.step, self._engine, self._ema)
            self._spent.restore(stored.record.state)
            ledger = read_attachment(store, stored, LEDGER_FILE)
            if ledger is not None:
                self._ledger.restore(ledger, f"{stored.record.uri}/{LEDGER_FILE}", inherited=True)
            self._send(NoteReport(f"started from {stored.record.uri}"))
        return self._plan.first_step

    def train(self, first_step: int) -> WorkerResult:
        """The loop: steps [first_step, plan.steps), unless the driver asks to stop."""
        plan = self._plan
        steps = range(first_step, plan.steps)
        self._agreement = Agreement(plan.checkpoint.every_minutes, plan.log_every_steps, self._device, first_step)
        if not steps:
            return self._finish(plan.steps, stopped=False)
        if self._is_owed_evaluation(first_step):
            self._evaluate(first_step)
        with closing(self._stream().blocks(steps.start, steps.stop)) as blocks:
            feed = Feed(self._unpacked(blocks, steps), self._batches.prepare, self._device)
            feed.prefetch()
            self._meter.begin()
            for step in steps:
                result = self._step(feed)
                self._meter.add({**result.metrics, "loss": result.loss}, plan.batch.size_at(step))
                self._engine.guard.check(plan.faults.max_left_out_steps)
                if self._pause_after(step + 1):
                    return self._finish(step + 1, stopped=True)
        return self._finish(plan.steps, stopped=False)

    def close(self) -> None:
        """End what runs beside the loop, once all reports are out of this process."""
        self._link.flush()
        self._checkpoints.close()
        self._engine.close()

    def _unpacked(self, blocks: Iterator[pa.Table], steps: range) -> Iterator[list[Arrays]]:
        for step in steps:
            size = self._format.size_at(step)
            yield [unpack_block(next(blocks), size) for _ in range(self._layout.num_micro(step))]

    def _step(self, feed: Feed) -> StepResult:
        with self._meter.waiting_for_data():
            batch = next(feed)
        result = train_step(self._engine, batch.tensors)
        for one in batch.arrays:
            self._ledger.add(one, left_out=self._engine.was_left_out)
        if self._ema is not None and not self._engine.was_left_out:
            self._ema.update()
        with self._meter.waiting_for_data():
            feed.prefetch()
        return result

    def _pause_after(self, done: int) -> bool:
        """What may follow a step: a log line, a checkpoint, an evaluation; true when the run is to stop."""
        plan, last = self._plan, done == self._plan.steps
        is_logged = done % plan.log_every_steps == 0 or last
        if is_logged:
            self._log(done)
        decision = Decision(Wish.GO_ON, checkpoint=False)
        if self._agreement.is_due(done):
            decision = self._agreement.decide(done, self._link.wish() if self._rank == 0 else Wish.GO_ON)
        if decision.wish is Wish.LEAVE:
            self._checkpoints.leave()
            raise RunHeldError("the lease on this run went to another holder; nothing more is written into its folder")
        if last:
            return False  # the end writes its own checkpoint
        if decision.wish is Wish.STOP:
            if not is_logged:  # the next attempt's means begin after these steps
                self._log(done)
            return True
        evaluate = self._is_evaluated(done)
        is_planned = _is_multiple(done, plan.checkpoint.every_steps) or done in plan.checkpoint.keep_steps
        if decision.checkpoint or evaluate or is_planned:
            self._spent.add(self._meter.take_seconds())
            with self._meter.paused():
                self._save(done, wait=evaluate)
                if evaluate:
                    self._evaluate(done)
        return False

    def _is_evaluated(self, step: int) -> bool:
        return _is_multiple(step, self._plan.evaluation.every_steps) and bool(self._plan.evaluation.sets)

    def _is_owed_evaluation(self, step: int) -> bool:
        """Whether the attempt before ended between a checkpoint and the evaluation that goes with it."""
        if self._restored is None or not self._is_evaluated(step):
            return False
        weights = judged_weights(self._plan.evaluation, has_average=self._ema is not None)
        return bool(from_rank_zero(self._rank == 0 and not is_judged(self._store, step, weights)))

    def _finish(self, step: int, stopped: bool) -> WorkerResult:
        if self._restored is not None and self._restored.step == step:
            record = self._restored  # what is left to do is to judge it
        else:
            record = self._save(step, wait=True)
        if not stopped and self._plan.evaluation.sets:
            self._evaluate(step)
        return WorkerResult(
            "stopped" if stopped else "finished", step, record.uri, self._samples_per_s, self._evaluation
        )

    def _log(self, done: int) -> None:
        num_steps, taken_s = self._meter.num_steps, self._meter.taken_s
        means = self._meter.read(self._device)
        norms = self._engine.gradient_norms()
        skipped = self._ledger.skipped()
        self._spent.add(means["step_s"] * num_steps - taken_s)  # as the log has them, less what checkpoints counted
        num_clipped = self._engine.num_clipped_steps
        clipped, self._last_clipped = num_clipped - self._last_clipped, num_clipped
        self._samples_per_s = means["samples_per_s"]
        values = {metrics.train_metric(name): value for name, value in means.items()}
        values |= {metrics.grad_norm(name): float(norm) for name, norm in norms.items() if name != "total"}
        values |= {metrics.skipped_samples(reason): float(count) for reason, count in skipped.items()}
        values |= self._spent.metrics(done) | {
            metrics.LEARNING_RATE: self._engine.learning_rate,
            metrics.GRAD_NORM: float(norms["total"]),
            metrics.CLIPPED_STEP_FRACTION: clipped / max(num_steps, 1),
            metrics.NONFINITE_STEPS: float(self._engine.guard.num_nonfinite),
            metrics.SPIKE_STEPS: float(self._engine.guard.num_spikes),
            metrics.MEMORY_BYTES: float(memory_bytes(self._device)),
            metrics.CHECKPOINT_S: self._checkpoint_s,
        }
        self._send(StepReport(done, values, num_steps))
        self._report_checkpoints()
        self._ledger.check_skipped(self._plan.data, done, self._spent.own_samples(done), skipped)

    def _save(self, step: int, wait: bool) -> CheckpointRecord:
        """Write a checkpoint; its upload goes on in the background unless ``wait``."""
        losses, proof = self._heldout_losses(), self._ledger.prove(step)
        counts = ledger_metrics(self._plan.data, proof.counts)
        if losses or counts:
            self._send(StepReport(step, losses | counts))
        for note in proof.notes:
            self._send(NoteReport(note))
        state = {
            "identity": self._plan.identity_digest,
            "workers": self._world_size,
            **self._spent.state(step),
            "metrics": losses,
            **({HELDOUT: self._plan.data.heldout.digest} if self._plan.data.heldout else {}),
        }
        record, self._checkpoint_s = self._checkpoints.save(
            self._engine,
            self._ema,
            step,
            state,
            score=losses.get(metrics.HELDOUT_LOSS),
            wait=wait,
            attachments=proof.attachments,
        )
        self._agreement.checkpoint_written()
        self._report_checkpoints()
        return record

    def _report_checkpoints(self) -> None:
        for record in self._checkpoints.take_completed():
            self._report_checkpoint(record)
        for uri in self._checkpoints.take_removed():
            self._send(RemovalReport(uri))

    def _report_checkpoint(self, record: CheckpointRecord) -> None:
        self._send(CheckpointReport(record.step, record.uri, record.state["metrics"]))

    def _heldout_losses(self) -> dict[str, float]:
        if not self._heldout:
            return {}
        with self._engine.gathered() as objective:
            return {
                metrics.HELDOUT_LOSS: heldout_loss(objective, self._heldout, self._device, self._plan.batch.micro_size)
            }

    def _evaluate(self, step: int) -> None:
        """Judge the weights that the plan wants judged; all ranks take part."""
        self._send(StepReport(step, self._spent.metrics(step)))  # so that scores are drawn against them
        for weights in judged_weights(self._plan.evaluation, has_average=self._ema is not None):
            with self._ema.swapped() if weights == "ema" and self._ema else nullcontext():
                self._judge(step, weights)

    def _judge(self, step: int, weights: Weights) -> None:
        started_s = time.monotonic()
        with self._engine.gathered() as objective:
            results = judge_plan(self._plan, objective, self._format, self._device, self._rank, self._world_size)
        if self._rank == 0:
            write_predictions(self._store, step, weights, results)
        self._evaluation[weights] = [result.to_dict() for result in results]
        self._send(EvaluationReport(step, weights, self._evaluation[weights], time.monotonic() - started_s))

    def _stream(self) -> BlockStream:
        reader = block_reader(self._plan, self._layout, self._format)
        return BlockStream(reader, self._order, self._layout, self._plan.stream, self._nodes.place, self._nodes.share)

    def _send(self, report: Report) -> None:
        if self._rank == 0:
            self._link.send(report)


def _is_multiple(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
