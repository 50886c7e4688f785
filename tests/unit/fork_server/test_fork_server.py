"""A real server and real clients; a sleeping process stands where the raylet would."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.fork_server import CAN_FORK, CLIENT

pytestmark = [pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux alone"), pytest.mark.timeout(300)]

TELL = """
import json, os, sys, torch
from ray._raylet import UniqueID
import numpy
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "told": os.environ.get("TOLD"), "pid": os.getpid(),
    "group": os.getpgrp(), "path": sys.path[0], "id": UniqueID.from_random().hex(), "draw": numpy.random.rand(),
    "name": __name__, "open": len(os.listdir("/proc/self/fd")),
}))
sys.stdout.flush()
"""

SETUP = """
import runpy, sys
del sys.argv[0]
print("as Ray does", flush=True)
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    """Something for a server to end with."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def start(raylet: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """``start(program, *arguments, **environment)``: a worker as Ray starts one, by way of the client."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "setup_worker.py").write_text(SETUP)

    def start(program: str, *arguments: str, raylet_name: str = "raylet", **environment: str) -> subprocess.Popen[str]:
        script = folder / f"{abs(hash(program))}.py"
        script.write_text(program)
        command = [sys.executable, CLIENT, script, f"--raylet-name={folder / raylet_name}", *arguments]
        variables = {**os.environ, "RAY_RAYLET_PID": str(raylet.pid), **environment}
        return subprocess.Popen(command, env=variables, cwd=folder, stdout=subprocess.PIPE, text=True)

    yield start
    raylet.kill()


def test_a_worker_is_as_if_it_had_been_started(start: Start) -> None:
    first, second = start(TELL, "--a", "b", TOLD="yes"), start(TELL, TOLD="no")
    told = [json.loads(process.communicate()[0]) for process in (first, second)]
    assert first.returncode == second.returncode == 0
    one, other = told
    assert one["arguments"][1:] == ["--a", "b"]
    assert one["told"] == "yes"
    assert other["told"] == "no"
    assert one["name"] == "__main__"
    assert Path(one["path"]) == Path(one["folder"])
    assert one["group"] == one["pid"] != first.pid, "Ray ends whole process groups"
    assert one["id"] != other["id"], "Ray's ids are its own"
    assert one["draw"] != other["draw"]
    assert one["open"] == other["open"], "files of other workers are not open in this one"
    server = Path(one["arguments"][0].removeprefix("--raylet-name=") + ".fork")
    assert stat.S_IMODE(server.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("program", "code"),
    [("import sys; sys.exit(7)", 7), ("raise KeyError('x')", 1), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_a_client_ends_as_its_worker_does(start: Start, program: str, code: int) -> None:
    process = start(program)
    process.communicate()
    assert process.returncode == code


def test_a_worker_dies_with_its_client(start: Start) -> None:
    process = start("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    assert process.stdout is not None
    worker = psutil.Process(int(process.stdout.readline()))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert worker.wait(timeout=60) is None  # no child of ours: gone is all that can be told


def test_without_a_server_a_worker_starts_as_ray_starts_it(start: Start) -> None:
    lonely = start("import os; print(os.getpid())", raylet_name="other", RAY_RAYLET_PID="no number")
    assert lonely.communicate()[0].split("\n")[:2] == ["as Ray does", str(lonely.pid)]
    assert lonely.returncode == 0


@pytest.mark.parametrize(
    ("context", "is_forked"),
    [
        ({"env_vars": {"TOLD": "by the job"}, "py_executable": sys.executable, "command_prefix": []}, True),
        ({"env_vars": {"TOLD": "by the job"}, "command_prefix": ["cd", "/", "&&"]}, False),
        ({"py_executable": "/elsewhere/python"}, False),
    ],
)
def test_what_asks_for_more_than_variables_is_set_up_by_ray(
    start: Start, context: dict[str, object], is_forked: bool
) -> None:
    arguments = ["--language=PYTHON", f"--serialized-runtime-env-context={json.dumps(context)}"]
    process = start("import os, sys; print(os.environ.get('TOLD'), len(sys.argv))", *arguments)
    shown = process.communicate()[0].splitlines()
    assert shown == (["by the job 2"] if is_forked else ["as Ray does", "None 4"])


def test_the_server_and_what_hangs_end_with_the_raylet(start: Start, raylet: subprocess.Popen[bytes]) -> None:
    process = start("import os; print(os.getppid())")
    server = psutil.Process(int(process.communicate()[0]))
    hanging = start("import os, time; print(os.getpid(), flush=True); time.sleep(900)")
    assert hanging.stdout is not None
    worker = psutil.Process(int(hanging.stdout.readline()))
    raylet.kill()
    server.wait(timeout=60)
    assert not server.is_running()
    assert psutil.wait_procs([worker], timeout=30)[1] == []
    hanging.communicate()
