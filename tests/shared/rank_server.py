"""Forks the ranks of distributed tests out of one process that has imported what they all need.

torch, transformers and DeepSpeed take some 10 s of CPU to import; a fork has them at once. Run as a script by
``run_ranks`` (tests/distributed/conftest.py): each line read is a JSON request ``{script, folder, ranks}``, ``ranks``
being the environment of each; the answer is a line ``[[exit status, what it printed], ...]``.
"""

import json
import logging
import os
import runpy
import sys
import tempfile
import threading
import traceback
import warnings
from typing import Any

logging.disable(logging.WARNING)
with warnings.catch_warnings():  # of their own imports; what a rank does is under -W error
    warnings.simplefilter("ignore")
    import deepspeed  # noqa: F401

    import orchestrator.models.towers
    import orchestrator.training.engine  # noqa: F401
logging.disable(logging.NOTSET)


def run_forked(script: str, folder: str, environment: dict[str, str], printed: str) -> int:
    """Process id of a new rank, which writes to the file ``printed`` and ends with the script."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        file = os.open(printed, os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environment)
        sys.argv = [script, folder]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except BaseException:  # noqa: BLE001  (the parent shows whatever ended the rank)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def answer(request: dict[str, Any]) -> list[tuple[int, str]]:
    """Runs all ranks of a request to their ends."""
    with tempfile.TemporaryDirectory() as logs:
        files = [f"{logs}/{rank}" for rank in range(len(request["ranks"]))]
        for file in files:
            open(file, "w").close()
        pids = [
            run_forked(request["script"], request["folder"], environment, file)
            for environment, file in zip(request["ranks"], files, strict=True)
        ]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        return [(status, open(file).read()) for status, file in zip(statuses, files, strict=True)]


if __name__ == "__main__":
    assert threading.active_count() == 1, "a fork keeps one thread only"
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
