"""Attempts at a run: start workers, hand their reports on, and start them again where that helps.

Ray Train runs the workers and nothing more: it retries every error alike and never refills its budget, and it would
be a second opinion on which checkpoint is the last. Both are decided here and in ``training/checkpoint.py``.
"""

import logging
import tempfile
import threading
import time

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.errors import Interrupted, RunHeldError, WorkerLostError
from orchestrator.runs.control import MailboxLink, RunControl
from orchestrator.runs.failures import judge_failure
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.recorder import Recorder
from orchestrator.spec.plan import Plan
from orchestrator.storage.lease import Lease
from orchestrator.training.entry import train_on_worker
from orchestrator.training.reports import Wish, WorkerResult

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_STARTS_WITHIN_S = 30.0  # where there is room for all workers
_COLLECTIVE_TIMEOUT_S = 600


def run_attempts(plan: Plan, recorder: Recorder, stop: StopRequest, lease: Lease) -> WorkerResult:
    """Train until the run ends; a committed checkpoint of a later step refills the attempts.

    Raises:
        OrchestratorError: the error that ended the run; WorkerLostError when the attempts are used up.
    """
    failed_in_a_row = 0
    for number in range(1, 10**6):
        checkpoint_step = recorder.checkpoint_step
        recorder.record_attempt(number)
        attempt = _Attempt(plan, number)
        attempt.watch(recorder, stop, lease)
        if attempt.result is not None:
            return attempt.result
        assert attempt.failure is not None, "an attempt ends with a result or a failure"
        verdict = judge_failure(attempt.failure)
        logger.debug("attempt %d", number, exc_info=attempt.failure)
        if not verdict.retry or stop.requested:
            raise verdict.error from attempt.failure
        failed_in_a_row = 1 if recorder.checkpoint_step > checkpoint_step else failed_in_a_row + 1
        if failed_in_a_row >= plan.faults.max_attempts:
            raise WorkerLostError(
                f"{failed_in_a_row} attempts without a new checkpoint (faults.max_attempts); the last: {verdict.error}"
            ) from attempt.failure
        logger.warning(
            "attempt %d ended (%s); going on from the last checkpoint, attempt %d of %d without a new one",
            number,
            verdict.error,
            failed_in_a_row + 1,
            plan.faults.max_attempts,
        )
    raise AssertionError("unreachable: the loop above returns or raises")


class _Attempt:
    """One start of all workers. ``fit`` blocks, so it runs in a thread of its own."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.result: WorkerResult | None = None
        self.failure: BaseException | None = None
        self._control = RunControl()
        self._folder = tempfile.TemporaryDirectory(prefix="vl-orchestrator-", ignore_cleanup_errors=True)
        self._trainer = _build_trainer(plan, self._control, f"{plan.name}-{number}", self._folder.name)
        self._thread = threading.Thread(target=self._fit, name="attempt", daemon=True)

    def watch(self, recorder: Recorder, stop: StopRequest, lease: Lease) -> None:
        """Run to the end; reports are handed on meanwhile, a request to stop is passed to the workers.

        Raises:
            RunHeldError: the lease went to another holder; the workers were told to stop.
            Interrupted: asked to stop while no worker had started.
        """
        self._thread.start()
        started_s, asked, waits = time.monotonic(), Wish.GO_ON, False
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            recorder.store_peak.look()
            recorder.record(self._control.take())
            wish = Wish.LEAVE if lease.lost else Wish.STOP if stop.requested else Wish.GO_ON
            if wish > asked:
                self._control.ask(wish)
                asked = wish
            if not waits and not recorder.places and time.monotonic() - started_s > _STARTS_WITHIN_S:
                logger.warning("no worker has started yet: waiting for room for all of them (ray.patience_s)")
                waits = True
            if asked and waits and not recorder.places:
                break
        recorder.record(self._control.take())
        self._folder.cleanup()
        if lease.lost:
            raise RunHeldError("the lease on this run went to another holder while it ran; it was stopped here")
        if self._thread.is_alive():
            raise Interrupted(f"{stop.reason}, while no worker had started")

    def _fit(self) -> None:
        try:
            self.result = self._trainer.fit().return_value
        except BaseException as error:  # noqa: BLE001  (a thread must hand over whatever ended it)
            self.failure = error


def _build_trainer(plan: Plan, control: RunControl, name: str, folder: str) -> TorchTrainer:
    use_gpu = plan.workers.accelerator == "cuda"
    return TorchTrainer(
        train_on_worker,
        train_loop_config={"plan": plan.model_dump_json(), "link": MailboxLink(control.mailbox)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=plan.workers.count, use_gpu=use_gpu, resources_per_worker=_worker_resources(plan)
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,  # holds Ray's own state, no checkpoint
            # By default Ray starts again for ever where no room is found in time, or a node was preempted.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )


def _worker_resources(plan: Plan) -> dict[str, float]:
    resources: dict[str, float] = {"CPU": plan.workers.cpus}
    if plan.workers.accelerator == "cuda":
        resources["GPU"] = 1
    return resources
