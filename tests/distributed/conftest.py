"""Starts the ranks of a distributed test: the test file itself, run as a script, once per rank."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

RunRanks = Callable[[str, int, Path], list[Any]]


@pytest.fixture(scope="session")
def run_ranks() -> RunRanks:
    """``run_ranks(script, world_size, folder)``: what each rank left with ``leave_record``, by rank.

    Fails with what a rank printed if one prints anything or fails, or if all take too long.
    """
    return _run_ranks


def _run_ranks(script: str, world_size: int, folder: Path) -> list[Any]:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # held here: its port cannot be taken
    common = {
        **os.environ,
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),  # for tests/shared
        "PATH": "",  # no compiler, as on a user's worker
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", script, str(folder)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        printed = [process.communicate(timeout=280)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert all(process.returncode == 0 for process in ranks), "\n".join(printed)
    assert not any(printed), "a rank printed:\n" + "\n".join(printed)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(world_size)]
