"""Starts the ranks of a distributed test: the test file itself, run as a script, once per rank."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RunRanks = Callable[[str, int, Path], None]


@pytest.fixture(scope="session")
def run_ranks() -> RunRanks:
    """``run_ranks(script, world_size, folder)``: fails with what a rank printed if one fails or all take too long."""
    return _run_ranks


def _run_ranks(script: str, world_size: int, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", script, str(folder)],
            env={
                **common,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "PATH": "",
            },  # no compiler, as on a user's worker
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
