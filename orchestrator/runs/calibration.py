"""How long a step of each objective takes here: what turns a budget in seconds into steps, before they are fixed.

Runs side by side slow each other down, so each objective is timed beside as many others as a trial will have.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

from orchestrator.errors import Interrupted
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.pretrain import Onlookers, run_plan
from orchestrator.runs.recorder import Recorder
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_plan import SharePlan
from orchestrator.spec.compare_share import resolve_shared
from orchestrator.spec.facts import Facts
from orchestrator.spec.load import join_uri
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve_compare import CALIBRATION_STEPS, probe_job
from orchestrator.storage.store import open_store
from orchestrator.tracking.metrics import STEP_S
from orchestrator.training.reports import Report, StepReport

logger = logging.getLogger(__name__)

_FOLDER = "calibration"
_MOST_STEPS = 50 * CALIBRATION_STEPS  # all that are timed together end together; planning takes time


def calibrate(
    spec: CompareSpec, cluster: ClusterSpec, share: SharePlan, facts: Mapping[str, Facts], stop: StopRequest
) -> dict[str, float]:
    """Seconds of a step at the model's own image size, by label; of its runs nothing is kept.

    Raises:
        Interrupted: somebody asked to stop; nothing is kept.
    """
    folder = join_uri(cluster.storage.runs, spec.name)
    storage = cluster.storage.model_copy(update={"runs": f"{folder}/{_FOLDER}"})
    place = cluster.model_copy(update={"storage": storage})
    store = open_store(folder, cluster.storage.s3)
    measured: dict[str, list[float]] = {}
    for wave in waves([entry.label for entry in spec.objectives], share.at_once):
        store.delete_folder(_FOLDER)  # also what a driver left that was killed
        plans = [_plan(spec, place, share, facts, label, number) for number, label in enumerate(wave)]
        try:
            seconds = _time(plans, place, stop)
        finally:
            store.delete_folder(_FOLDER)
        for label, one in zip(wave, seconds, strict=True):
            logger.info("%s: %.3g s a step", label, one)
            measured.setdefault(label, []).append(one)
    return {label: sum(seconds) / len(seconds) for label, seconds in measured.items()}


def waves(labels: Sequence[str], at_once: int) -> list[tuple[str, ...]]:
    """Who is timed side by side: always as many as trials run at once, some of them twice to fill the places."""
    starts = range(0, len(labels), at_once)
    places = cycle(labels)
    return [tuple(islice(places, at_once)) for _ in starts]


class Stopwatch:
    """Times runs that go on side by side, until all of them are timed; safe in their threads.

    The first window of a run warms it up. Its last one before the end counts, when all the others ran too.
    """

    def __init__(self, num_runs: int, stop: StopRequest) -> None:
        self.stop = StopRequest(stop)
        self.seconds_per_step = [0.0] * num_runs
        self._num_windows = [0] * num_runs
        self._lock = threading.Lock()

    def take(self, number: int, report: Report) -> None:
        """One report of a run."""
        if not isinstance(report, StepReport) or not report.num_steps:
            return
        with self._lock:
            if self.stop.requested:
                return
            self._num_windows[number] += 1
            self.seconds_per_step[number] = report.metrics[STEP_S]
            if min(self._num_windows) >= 2:
                self.stop.ask("all are timed")


def _plan(
    spec: CompareSpec, place: ClusterSpec, share: SharePlan, facts: Mapping[str, Facts], label: str, number: int
) -> Plan:
    entry = next(entry for entry in spec.objectives if entry.label == label)
    job = probe_job(spec, entry, _MOST_STEPS, f"{label}-{number}")
    timed = {
        "log_every_steps": CALIBRATION_STEPS,
        "model": job.model.model_copy(update={"resolutions": ()}),
        "checkpoint": CheckpointSpec(),  # the least there can be
    }
    return resolve_shared(job.model_copy(update=timed), place, facts[label], share)


def _time(plans: Sequence[Plan], place: ClusterSpec, stop: StopRequest) -> list[float]:
    """Seconds of a step of each plan, while all of them run."""
    watch = Stopwatch(len(plans), stop)

    def run(number: int) -> None:
        def hear(recorder: Recorder, report: Report) -> None:
            watch.take(number, report)

        try:
            run_plan(plans[number], place, watch.stop, Onlookers(on_report=hear), recorded=False)
        except BaseException:
            watch.stop.ask("another one failed")
            raise

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(run, range(len(plans))))
    if stop.requested:
        raise Interrupted(f"{stop.reason} while the objectives were timed; start again to time them anew")
    return watch.seconds_per_step
