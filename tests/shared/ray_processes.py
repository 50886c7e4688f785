"""Processes of a Ray that some process has started."""

import contextlib

import psutil


def ray_processes(driver: int, title: str) -> list[psutil.Process]:
    """All that live and whose command has ``title`` in it: descendants of ``driver``, and workers that were forked for
    a raylet among them.
    """
    children = psutil.Process(driver).children(recursive=True)
    raylets = {str(child.pid) for child in children}
    found = {child.pid: child for child in children}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_RAYLET_PID") in raylets:
                found[process.pid] = process
    return [process for process in found.values() if _is_called(process, title)]


def _is_called(process: psutil.Process, title: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return title in " ".join(process.cmdline())
    return False
