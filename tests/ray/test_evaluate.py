"""A job of kind ``evaluate`` judges on workers, and is seen, stopped and started again as other jobs are."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from orchestrator.errors import Interrupted
from orchestrator.evaluation.results import ProbeResult
from orchestrator.runs.evaluate import evaluate_job
from orchestrator.runs.live import read_live_record, request_stop
from orchestrator.runs.pretrain import PretrainResult
from orchestrator.runs.progress import Progress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import EvaluateSpec
from orchestrator.spec.load import join_uri
from orchestrator.storage.store import Store, open_store
from orchestrator.tracking.tracker import RunStatus

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]


def judge_job(name: str, of: PretrainResult, weights: str) -> EvaluateSpec:
    evaluation = of.plan.evaluation.model_dump(mode="json") | {"weights": weights}
    return EvaluateSpec.model_validate(
        {"kind": "evaluate", "name": name, "run": of.plan.name, "evaluation": evaluation}
    )


def folder_of(name: str, cluster: ClusterSpec) -> Store:
    return open_store(join_uri(cluster.storage.runs, name), cluster.storage.s3)


def wait_until(holds: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def scores(results: list[ProbeResult]) -> dict[str, float]:
    return {
        "/".join((one.probe, one.target, one.feature, name)): score.value
        for one in results
        for name, score in one.scores.items()
    }


def test_workers_find_what_the_run_found_although_one_of_them_dies(
    clip_result: PretrainResult, clip_cluster: ClusterSpec, train_worker_pids: Callable[[], list[int]]
) -> None:
    killed: list[int] = []
    seen: list[Progress] = []
    looks = Counter[int]()

    def kill_one(progress: Progress) -> None:
        seen.append(progress)
        looks.update(pids := train_worker_pids())
        # Not while the group starts: Ray Train then keeps its room for ever where no dashboard runs.
        if not killed and pids and looks[pids[-1]] > 2:
            os.kill(pids[-1], signal.SIGKILL)
            killed.append(pids[-1])

    found = evaluate_job(judge_job("judge-all", clip_result, "both"), clip_cluster, on_progress=kill_one)
    assert killed
    assert scores(found["raw"]) == pytest.approx(scores(clip_result.evaluation))
    assert scores(found["ema"]) == pytest.approx(scores(clip_result.evaluation_ema))
    assert {progress.done for progress in seen} == {0, 1, 2}
    record = read_live_record(folder_of("judge-all", clip_cluster))
    assert record is not None
    assert (record.status, record.step, record.steps, record.unit) == (RunStatus.FINISHED, 2, 2, "weights")


def test_a_request_to_stop_ends_it(
    clip_result: PretrainResult, clip_cluster: ClusterSpec, train_worker_pids: Callable[[], list[int]]
) -> None:
    store = folder_of("judge-some", clip_cluster)
    held: list[psutil.Process] = []

    def ask_once(_: Progress) -> None:
        if not held and (pids := train_worker_pids()):
            held.append(psutil.Process(pids[0]))
            held[0].suspend()  # so that judging takes until the request is seen
            request_stop(store, None, "stop asked for by somebody")

    try:
        with pytest.raises(Interrupted, match="stop asked for by somebody, during: judge"):
            evaluate_job(judge_job("judge-some", clip_result, "raw"), clip_cluster, on_progress=ask_once)
    finally:
        for process in held:
            process.resume()
    record = read_live_record(store)
    assert record is not None
    assert record.status == RunStatus.KILLED
    wait_until(lambda: not train_worker_pids())  # a job ends its Ray, and so them; this Ray goes on
