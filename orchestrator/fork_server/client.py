"""Stands in for one worker process of Ray; a program by itself (``python -IS client.py PROGRAM ARGUMENT ...``).

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


def main() -> None:
    """Without a server the worker's own program takes this process over."""
    program = sys.argv[1:]
    connection = _connected(_socket_path(program))
    if connection is None:
        os.execv(sys.executable, [sys.executable, *program])
    request = {"arguments": program, "environment": dict(os.environ), "folder": os.getcwd()}
    body = json.dumps(request).encode()
    socket.send_fds(connection, [len(body).to_bytes(4)], [0, 1, 2])
    connection.sendall(body)
    code = int(connection.recv(16) or b"1")
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _socket_path(program: list[str]) -> str:
    """Beside the raylet's own, in Ray's folder for this session."""
    raylet = next(argument for argument in program if argument.startswith(_RAYLET))
    return raylet.removeprefix(_RAYLET) + ".fork"


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
        time.sleep(0.05)
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
