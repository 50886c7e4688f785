"""Processes of a Ray that some process has started."""

import contextlib

import psutil


def ray_processes(driver: int) -> list[psutil.Process]:
    """All that live: descendants of ``driver``, and workers that were forked for a raylet among them."""
    children = psutil.Process(driver).children(recursive=True)
    raylets = {str(child.pid) for child in children}
    found = {child.pid: child for child in children}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_RAYLET_PID") in raylets:
                found[process.pid] = process
    return list(found.values())
