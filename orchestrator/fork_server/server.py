"""The process that workers are forked from (``python -m orchestrator.fork_server.server SOCKET``).

One thread, so that a fork copies a process in which nobody holds a lock. It ends with its raylet, whose environment it
has: Ray reads some of that when it is imported, so a server for another raylet would not do.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import ray.actor
from ray._raylet import ActorClassID, UniqueID

from orchestrator.env import apply_quiet_env

PRELOADED = (
    "deepspeed",
    "functorch.compile",
    "orchestrator.evaluation.evaluate",
    "orchestrator.objectives.two_towers",
    "orchestrator.training.engine",
    "orchestrator.training.worker",
    "pyarrow.dataset",
    "pyarrow.json",
    "ray.data",
    "ray.train.torch",
    "ray.tune",
    "starlette.datastructures",
)
"""What some worker imports and some wait for; names that are public, so that they stay."""
_GRACE_S = 2.0


@dataclass(frozen=True)
class _Worker:
    """A forked worker and the client that stands in for it."""

    pid: int
    pidfd: int
    client: socket.socket


class ForkServer:
    """Forks on request, tells each client how its worker ended, and kills a worker whose client is gone."""

    def __init__(self, path: str, raylet_pid: int) -> None:
        self.events = selectors.DefaultSelector()
        self.listener = _listen(path)
        self._watch(self.listener, self._fork)
        self._watch(os.pidfd_open(raylet_pid), self._raylet_ended)

    def serve(self) -> NoReturn:
        """Until the raylet ends."""
        while True:
            for key, _ in self.events.select():
                if self.events.get_map().get(key.fd) is key:  # not closed by an event before it, nor its number reused
                    key.data()

    def _raylet_ended(self) -> NoReturn:
        """Workers end with their raylet by themselves; one that has not a moment later hangs in its end."""
        time.sleep(_GRACE_S)  # there is no one left to serve
        for key in self.events.get_map().values():
            if isinstance(key.fileobj, int):  # a process: the workers', and the raylet's
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(key.fd, signal.SIGKILL)
        sys.exit(0)

    def _watch(self, file: Any, react: Callable[[], None]) -> None:
        self.events.register(file, selectors.EVENT_READ, react)

    def _fork(self) -> None:
        client, _ = self.listener.accept()
        request, files = _receive(client)
        pid = os.fork() if request else None
        if pid == 0:
            self._forget(client)
            _run(json.loads(request), files)
        for file in files:
            os.close(file)
        if pid is None:  # the client was killed while it asked
            client.close()
            return
        worker = _Worker(pid, os.pidfd_open(pid), client)
        self._watch(worker.pidfd, lambda: self._ended(worker))
        self._watch(client, lambda: self._abandoned(worker))

    def _ended(self, worker: _Worker) -> None:
        _, status = os.waitpid(worker.pid, 0)
        with suppress(OSError):  # the client was killed together with its worker
            worker.client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        self._release(worker)

    def _abandoned(self, worker: _Worker) -> None:
        signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
        self.events.unregister(worker.client)

    def _release(self, worker: _Worker) -> None:
        self.events.unregister(worker.pidfd)
        os.close(worker.pidfd)
        if worker.client.fileno() in self.events.get_map():
            self.events.unregister(worker.client)
        worker.client.close()

    def _forget(self, client: socket.socket) -> None:
        """In a fork: nothing of the server stays open."""
        for key in list(self.events.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self.events.close()
        client.close()


def main() -> None:
    """Import, then listen: who can connect can have a fork at once."""
    raylet_pid = int(os.environ["RAY_RAYLET_PID"])
    apply_quiet_env()
    _preload()
    server = ForkServer(sys.argv[1], raylet_pid)
    gc.collect()
    gc.freeze()  # collections in a fork then leave the shared pages alone
    server.serve()


def _preload() -> None:
    """Import, without a draw from Ray's generator of ids: it is seeded at its first use, and a fork copies it.

    Raises:
        RuntimeError: two forks would draw the same ids; workers then start as they always do.
    """
    ray.actor.ActorClassID = _ClassIds
    for name in PRELOADED:
        importlib.import_module(name)
    ray.actor.ActorClassID = ActorClassID
    if _drawn_in_fork() == _drawn_in_fork():
        raise RuntimeError("an import has used Ray's generator of ids, which forks would share; no worker is forked")


class _ClassIds:
    """Ids for the actor classes that Ray's own modules declare."""

    @staticmethod
    def from_random() -> ActorClassID:
        return ActorClassID(os.urandom(ActorClassID.size()))


def _drawn_in_fork() -> bytes:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, UniqueID.from_random().binary())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, "rb") as drawn:
        return drawn.read()


def _listen(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)  # of a server that died
    listener = socket.socket(socket.AF_UNIX)
    previous = os.umask(0o177)  # only this user may have code run here
    try:
        listener.bind(path)
    finally:
        os.umask(previous)
    listener.listen(64)
    return listener


def _receive(client: socket.socket) -> tuple[bytes, list[int]]:
    """What the client wrote, or nothing where it ended before all of it came; its standard files."""
    head, files, *_ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as stream:
        body = stream.read(int.from_bytes(head))
    return body if head and len(body) == int.from_bytes(head) else b"", files


def _run(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Be the worker: what a fresh process has from its start is set, then its program runs."""
    os.setsid()  # Ray ends the process group of a worker that died
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    np.random.seed()  # else all workers would draw alike; Python's own generator does this by itself
    sys.argv = request["arguments"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    main()
