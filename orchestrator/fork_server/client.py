"""Stands in for one worker process of Ray: the program that Ray runs to set up a worker (``setup_worker.py``).

Imports nothing but the standard library, since every worker pays for it. Hands arguments, environment, folder and the
three standard files to the server, and ends as the worker ends.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

_START_S = 60.0
_RAYLET = "--raylet-name="
_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="


def main() -> None:
    """Without a server, or for a worker that is no plain Python, Ray's own set-up takes this process over."""
    program, variables = sys.argv[1:], _variables(sys.argv[1:])
    connection = None if variables is None else _connected(_value(program, _RAYLET) + ".fork")
    if connection is None or variables is None:
        usual = os.path.join(os.path.dirname(program[0]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, usual, *program])
    own = [argument for argument in program if not argument.startswith((_CONTEXT, _LANGUAGE))]
    request = {"arguments": own, "environment": {**os.environ, **variables}, "folder": os.getcwd()}
    body = json.dumps(request).encode()
    socket.send_fds(connection, [len(body).to_bytes(4)], [0, 1, 2])
    connection.sendall(body)
    code = int(connection.recv(16) or b"1")
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _value(program: list[str], name: str) -> str:
    return next((argument.removeprefix(name) for argument in program if argument.startswith(name)), "")


def _variables(program: list[str]) -> dict[str, str] | None:
    """What the job's runtime environment sets; None where it asks for more than variables."""
    context = json.loads(_value(program, _CONTEXT) or "{}")
    variables: dict[str, str] = context.pop("env_vars", None) or {}
    if context.get("py_executable") == sys.executable:
        del context["py_executable"]
    is_plain = program[0].endswith(".py") and _value(program, _LANGUAGE) in ("", "PYTHON") and not any(context.values())
    return variables if is_plain else None


def _connected(path: str) -> socket.socket | None:
    """The server, started first where none listens; None where that fails."""
    connection = _connect(path)
    if connection is not None:
        return connection
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # all others wait for the one that starts it
        return _connect(path) or _start(path)


def _start(path: str) -> socket.socket | None:
    command = [sys.executable, "-P", "-m", "orchestrator.fork_server.server", path]
    server = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        connection = _connect(path)
        if connection is not None:
            return connection
        time.sleep(0.05)  # it imports for seconds before it listens
    server.kill()
    return None


def _connect(path: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


if __name__ == "__main__":
    main()
