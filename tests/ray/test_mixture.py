"""A run over several sources, one drawn with replacement, one filtered, one annotated in part: end to end.

A worker is killed in the middle, and the run goes on with another number of them.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.index import load_index
from orchestrator.data.scenes.geometry import GEOMETRY
from orchestrator.data.webdataset import read_keys
from orchestrator.errors import WorkerLostError
from orchestrator.runs.indexing import ensure_index
from orchestrator.runs.ledger import report_run_ledger
from orchestrator.runs.pretrain import run_pretrain
from orchestrator.runs.progress import Progress
from orchestrator.spec.annotation import AnnotationNeed
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.objective import ClipSpec
from orchestrator.storage.store import open_store

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(600)]


class WorkerKiller:
    """Kills a worker once, behind a checkpoint and before the next."""

    def __init__(self, worker_pids: Callable[[], list[int]]) -> None:
        self._worker_pids = worker_pids
        self.killed = False

    def __call__(self, progress: Progress) -> None:
        if progress.activity == "train" and progress.done >= 4 and not self.killed:
            os.kill(self._worker_pids()[-1], signal.SIGKILL)
            self.killed = True


@pytest.mark.full
def test_shares_and_a_deny_list_are_kept_to_and_counted_over_a_kill_and_another_world_size(
    scenes: Path,
    smoke_job: Callable[..., PretrainSpec],
    local_cluster: Callable[..., ClusterSpec],
    train_worker_pids: Callable[[], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Masks travel with the samples; only the first shard of scenes/train and all of scenes/val have them."""
    need = AnnotationNeed(name="masks", columns={"mask": "mask"}, missing="keep")
    monkeypatch.setattr(ClipSpec, "annotations", property(lambda self: (need,)))
    for split, pattern in (("train", "00000.parquet"), ("val", "*.parquet")):
        added = scenes / "scenes" / split / "_orchestrator"
        for file in (added / GEOMETRY).glob(pattern):
            (added / "some").mkdir(exist_ok=True)
            shutil.copy(file, added / "some")
    cluster = local_cluster(scenes, tmp_path / "runs", num_workers=2)
    store = open_store((scenes / "scenes" / "val").as_uri())
    ensure_index(store)
    index = load_index(store)
    assert index is not None
    denied = [key for shard in index.shards for key in read_keys(store, shard)[::4]]
    np.save(tmp_path / "denied.npy", np.array(denied))
    train = (
        "[{uri: scenes/train, proportion: 0.75, with_replacement: true}, {uri: scenes/val, proportion: 0.25, "
        f"select: {{deny: {tmp_path / 'denied.npy'}}}}}]"
    )
    settings = {"budget__steps": 10, "evaluation__sets": "[]", "data__heldout": "null", "data__train": train}
    settings |= {"data__annotations": "{masks: some}", "checkpoint__every_steps": 3, "log_every_steps": 1}
    killer = WorkerKiller(train_worker_pids)
    with pytest.raises(WorkerLostError):
        run_pretrain(smoke_job("clip", **settings, faults__max_attempts=1), cluster, on_progress=killer)
    assert killer.killed
    result = run_pretrain(smoke_job("clip", **settings), local_cluster(scenes, tmp_path / "runs", num_workers=1))
    assert (result.status, result.plan.workers.count) == ("finished", 1)
    report = report_run_ledger(result.run_folder, cluster)
    assert report.is_healthy, report
    trained = [sum(row.trained_once for row in report.rows if row.dataset == number) for number in (0, 1)]
    assert trained == [240, 80]
    # Of 320 samples a round draws 20; each has them once, whichever workers had them before and after the kill.
    rounds = [(row.epoch, row.trained_once, row.repeated) for row in report.rows if row.dataset == 0]
    assert rounds == [(number, 20, 0) for number in range(12)]
    lacking = [sum(row.unannotated for row in report.rows if row.dataset == number) for number in (0, 1)]
    assert 0 < lacking[0] < 240
    assert lacking[1] == 0
    whole = [row for row in report.rows if row.dataset == 1 and row.epoch == 0]
    assert (whole[0].filtered, whole[0].expected) == (len(denied), index.num_samples)
    assert whole[0].trained_once == index.num_samples - len(denied)
