"""How long a step of each objective takes here: what turns a budget in seconds into steps, before they are fixed."""

import logging
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from orchestrator.errors import Interrupted
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.pretrain import Onlookers, run_plan
from orchestrator.runs.recorder import Recorder
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec, ObjectiveEntrySpec
from orchestrator.spec.compare_plan import SharePlan
from orchestrator.spec.compare_share import share_cluster, share_facts
from orchestrator.spec.facts import Facts
from orchestrator.spec.resolve import resolve_plan
from orchestrator.spec.resolve_compare import CALIBRATION_STEPS, probe_job
from orchestrator.tracking.metrics import STEP_S
from orchestrator.training.reports import Report, StepReport

logger = logging.getLogger(__name__)


def calibrate(
    spec: CompareSpec, cluster: ClusterSpec, share: SharePlan, facts: Mapping[str, Facts], stop: StopRequest
) -> dict[str, float]:
    """Seconds of a step, by label; as many objectives side by side as trials will be, since they slow each other down.

    Raises:
        Interrupted: somebody asked to stop; nothing is kept.
    """

    def measure(entry: ObjectiveEntrySpec) -> float:
        return _measure(spec, entry, cluster, share, facts[entry.label], stop)

    with ThreadPoolExecutor(share.at_once) as pool:
        measured = list(pool.map(measure, spec.objectives))
    return {entry.label: seconds for entry, seconds in zip(spec.objectives, measured, strict=True)}


def _measure(
    spec: CompareSpec,
    entry: ObjectiveEntrySpec,
    cluster: ClusterSpec,
    share: SharePlan,
    facts: Facts,
    stop: StopRequest,
) -> float:
    """A run of a name that no other has; its second half counts, the first one warms up."""
    name = f"{spec.name}--{entry.label}-c{secrets.token_hex(2)}"
    job = probe_job(spec, entry, 2 * CALIBRATION_STEPS, name)
    job = job.model_copy(update={"log_every_steps": CALIBRATION_STEPS})
    plan = resolve_plan(job, share_cluster(cluster, share), share_facts(facts, share))
    last: list[float] = []

    def hear(recorder: Recorder, report: Report) -> None:
        if isinstance(report, StepReport) and report.num_steps:
            last[:] = [report.metrics[STEP_S]]

    run_plan(plan, cluster, StopRequest(stop), Onlookers(on_report=hear))
    if stop.requested:
        raise Interrupted(f"{stop.reason} while the objectives were timed; start again to time them anew")
    logger.info("%s: %.3g s a step", entry.label, last[0])
    return last[0]
