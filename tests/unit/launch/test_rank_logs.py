"""Logs of ranks, from a dashboard that speaks Ray's API; with a real Ray: ``tests/ray/test_submit.py``."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import ClusterAccessError, RunNotFoundError
from orchestrator.launch import rank_logs, ray_jobs
from orchestrator.launch.ray_jobs import RayJobs, Submission, connect
from orchestrator.runs.live import RANKS_FILE
from orchestrator.spec.cluster_submit import SubmitSpec
from orchestrator.storage.store import Store, open_store
from ray_dashboard import RayDashboard, ray_dashboard

LIVE = Submission("small-1", "small", "RUNNING", "", None, 1000.0)


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RayDashboard, RayJobs]]:
    pytest.importorskip("aiohttp", reason="ray[default] brings it")
    monkeypatch.setattr(ray_jobs, "_FOLLOW_S", 0.2)
    monkeypatch.setattr(rank_logs, "_AGAIN_S", 0.05)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "put back afterwards")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with ray_dashboard() as (dashboard, url):
        yield dashboard, connect(SubmitSpec(dashboard=url))


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def write_ranks(run: Store, *actors: str) -> None:
    ranks = {str(rank): {"actor": actor, "node": "node"} for rank, actor in enumerate(actors)}
    run.write_bytes(RANKS_FILE, json.dumps({"submission": "small-1", "ranks": ranks}).encode())


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


class Follower:
    """Somebody who follows a rank, in a thread."""

    def __init__(self, pool: ThreadPoolExecutor, jobs: RayJobs, run: Store, rank: int) -> None:
        self.shown = b""
        self._done: Future[None] = pool.submit(self._follow, jobs, run, rank)

    def _follow(self, jobs: RayJobs, run: Store, rank: int) -> None:
        for _, parts in rank_logs.rank_logs(jobs, run, LIVE, rank, follow=True):
            for part in parts:
                self.shown += part

    def has_shown(self, text: bytes) -> None:
        wait_until(lambda: text in self.shown or self._done.done())
        assert text in self.shown

    def end(self) -> bytes:
        self._done.result(10)
        return self.shown


def test_a_followed_rank_goes_on_with_the_actor_of_the_next_attempt(
    dashboard: tuple[RayDashboard, RayJobs], run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    there, jobs = dashboard
    caplog.set_level(logging.INFO, "orchestrator")
    write_ranks(run, "a0", "a1")
    there.logs["a1"] = b""
    with ThreadPoolExecutor() as pool:
        follower = Follower(pool, jobs, run, 1)
        wait_until(lambda: there.num_streams == 1)
        there.logs["a1"] += b"one\n"
        follower.has_shown(b"one\n")
        there.logs["a1"] += b"two: lost\n"
        there.logs["b1"] = b"three\n"
        write_ranks(run, "b0", "b1")
        follower.has_shown(b"three\n")
        there.logs["b1"] += b"four\n"
        there.status = "SUCCEEDED"
        assert follower.end() == b"one\ntwo: lost\nthree\nfour\n"
    assert there.num_sent == len(follower.shown), "what was sent once is not sent again"
    assert "rank 1 was started anew: its log goes on as that of actor b1" in caplog.text


def test_a_connection_that_breaks_off_is_made_again_and_nothing_shown_twice(
    dashboard: tuple[RayDashboard, RayJobs], run: Store
) -> None:
    there, jobs = dashboard
    write_ranks(run, "a0")
    there.logs["a0"] = b"one\n"
    with ThreadPoolExecutor() as pool:
        follower = Follower(pool, jobs, run, 0)
        follower.has_shown(b"one\n")
        there.cuts += 1
        there.logs["a0"] += b"two\n"
        follower.has_shown(b"two\n")
        there.status = "SUCCEEDED"
        assert follower.end() == b"one\ntwo\n"


def test_a_rank_whose_node_goes_is_told_and_followed_once_it_is_elsewhere(
    dashboard: tuple[RayDashboard, RayJobs], run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    there, jobs = dashboard
    write_ranks(run, "a0")
    there.logs["a0"] = b"one\n"
    with ThreadPoolExecutor() as pool:
        follower = Follower(pool, jobs, run, 0)
        follower.has_shown(b"one\n")
        del there.logs["a0"]
        wait_until(lambda: "rank 0: Ray has no log of actor a0 (Agent for the node doesn't exist.)" in caplog.text)
        there.logs["b0"] = b"two\n"
        write_ranks(run, "b0")
        follower.has_shown(b"two\n")
        there.status = "FAILED"
        assert follower.end() == b"one\ntwo\n"
    assert caplog.text.count("Ray has no log of actor a0") == 1


def test_of_all_ranks_one_that_is_gone_is_told_and_the_others_shown(
    dashboard: tuple[RayDashboard, RayJobs], run: Store, caplog: pytest.LogCaptureFixture
) -> None:
    there, jobs = dashboard
    with pytest.raises(RunNotFoundError, match="no ranks yet"):
        list(rank_logs.rank_logs(jobs, run, LIVE, None, follow=False))
    write_ranks(run, "a0", "a1", "a2")
    there.logs = {"a0": b"of rank 0", "a2": b"of rank 2"}
    shown = {rank: b"".join(parts) for rank, parts in rank_logs.rank_logs(jobs, run, LIVE, None, follow=False)}
    assert shown == {0: b"of rank 0", 2: b"of rank 2"}
    assert "rank 1: Ray has no log of actor a1" in caplog.text
    with pytest.raises(RunNotFoundError, match="its node may be gone"):
        list(rank_logs.rank_logs(jobs, run, LIVE, 1, follow=False))
    with pytest.raises(RunNotFoundError, match="ranks 0 to 2"):
        list(rank_logs.rank_logs(jobs, run, LIVE, 3, follow=False))


def test_a_token_that_is_refused_ends_the_following_by_name(
    dashboard: tuple[RayDashboard, RayJobs], run: Store
) -> None:
    there, jobs = dashboard
    write_ranks(run, "a0")
    there.logs["a0"] = b"one\n"
    with ThreadPoolExecutor() as pool:
        follower = Follower(pool, jobs, run, 0)
        follower.has_shown(b"one\n")
        there.token = "another"
        there.cuts += 1
        with pytest.raises(ClusterAccessError, match="asks for a token and there is none here"):
            follower.end()
