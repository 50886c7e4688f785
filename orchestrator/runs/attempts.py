"""Attempts at a run: start workers, hand their reports on, and start them again where that helps."""

import logging
import time

from ray.exceptions import RayActorError

from orchestrator.errors import Interrupted, RunHeldError, WorkerLostError
from orchestrator.runs.control import MailboxLink, RunControl
from orchestrator.runs.failures import judge_failure
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.worker_group import WorkerGroup
from orchestrator.spec.plan import Plan
from orchestrator.storage.lease import Lease
from orchestrator.training.entry import train_on_worker
from orchestrator.training.reports import Report, Wish, WorkerResult

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_STARTS_WITHIN_S = 30.0  # where there is room for all workers


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
    """One start of all workers."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._control = RunControl()
        config = {"plan": plan.model_dump_json(), "link": MailboxLink(self._control.mailbox)}
        self._group = WorkerGroup(train_on_worker, config, plan.workers, f"{plan.name}-{number}")
        self._unheard: RayActorError | None = None
        """The mailbox died, as where a node's memory runs out: its reports are lost; rank 0 fails when it asks next."""

    @property
    def result(self) -> WorkerResult | None:
        """Of rank 0; none: it failed, or not all that it told was heard."""
        result: WorkerResult | None = self._group.result
        return None if self._unheard else result

    @property
    def failure(self) -> BaseException | None:
        """What ended it, where it has no result."""
        return self._group.failure or self._unheard

    def watch(self, recorder: Recorder, stop: StopRequest, lease: Lease) -> None:
        """Run to the end; reports are handed on meanwhile, a request to stop is passed to the workers.

        Raises:
            RunHeldError: the lease went to another holder; the workers were told to stop.
            Interrupted: asked to stop while no worker had started.
        """
        self._group.start()
        started_s, asked, waits, ended = time.monotonic(), Wish.GO_ON, False, False
        while not ended:
            ended = self._group.wait(_POLL_S)
            recorder.store_peak.look()
            recorder.record(self._take())
            wish = Wish.LEAVE if lease.lost else Wish.STOP if stop.requested else Wish.GO_ON
            if wish > asked:
                self._ask(wish)
                asked = wish
            if not waits and not recorder.places and time.monotonic() - started_s > _STARTS_WITHIN_S:
                logger.warning("no worker has started yet: waiting for room for all of them (ray.patience_s)")
                waits = True
            if asked and waits and not recorder.places:
                break
        recorder.record(self._take())
        self._group.forget()
        if lease.lost:
            raise RunHeldError("the lease on this run went to another holder while it ran; it was stopped here")
        if not ended:
            raise Interrupted(f"{stop.reason}, while no worker had started")

    def _take(self) -> list[Report]:
        try:
            return self._control.take()
        except RayActorError as error:
            self._unheard = error
            return []

    def _ask(self, wish: Wish) -> None:
        try:
            self._control.ask(wish)
        except RayActorError as error:
            self._unheard = error
