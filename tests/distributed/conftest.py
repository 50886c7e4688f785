"""Starts the ranks of a distributed test: the test file itself, run as a script, once per rank."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

RunRanks = Callable[[str, int, Path], list[Any]]

_TIMEOUT_S = 580


@pytest.fixture(scope="session")
def run_ranks() -> Iterator[RunRanks]:
    """``run_ranks(script, world_size, folder)``: what each rank left with ``leave_record``, by rank.

    Fails with what a rank printed if one prints anything or fails, or if all take too long.
    """
    server = subprocess.Popen(
        [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "shared" / "rank_server.py")],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),  # for tests/shared
            "PATH": "",  # no compiler, as on a user's worker
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield lambda script, world_size, folder: _run_ranks(server, script, world_size, folder)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def _run_ranks(server: "subprocess.Popen[str]", script: str, world_size: int, folder: Path) -> list[Any]:
    assert server.stdin is not None
    assert server.stdout is not None
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # held here: its port cannot be taken
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    server.stdin.write(json.dumps({"script": script, "folder": str(folder), "ranks": ranks}) + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], _TIMEOUT_S)[0]:
        os.killpg(server.pid, signal.SIGKILL)
        raise TimeoutError(f"the ranks of {script} did not end within {_TIMEOUT_S} s")
    answer = server.stdout.readline()
    assert answer, "the process that forks ranks has ended; what it printed stands above"
    ended = json.loads(answer)
    assert all(status == 0 for status, _ in ended), "\n".join(printed for _, printed in ended)
    assert not any(printed for _, printed in ended), "a rank printed:\n" + "\n".join(printed for _, printed in ended)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(world_size)]
