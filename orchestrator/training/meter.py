"""Means of what happened since the last logged step: metrics and times.

Reading a metric's value waits for the device, so steps only add tensors, and values are read at logged steps.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from orchestrator.collectives import all_reduce_mean


class Meter:
    """Adds up steps; ``read`` averages them over ranks and starts anew. All ranks read at the same steps."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from now on: start-up and the wait for the very first batch are no part of any step."""
        self._sums: dict[str, Tensor] = {}
        self._num_steps = self._num_samples = 0
        self._data_wait_s = 0.0
        self._started_s = time.monotonic()
        self._paused_s = 0.0
        self.taken_s = 0.0
        """What ``take_seconds`` has given since the last reading."""

    @property
    def num_steps(self) -> int:
        """Steps since the last reading."""
        return self._num_steps

    def add(self, metrics: Mapping[str, Tensor], num_samples: int) -> None:
        """One step's metrics, each 0-dim, and its samples over all ranks."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.detach().float()
        self._num_steps += 1
        self._num_samples += num_samples

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time within counts as waiting for the loader."""
        start_s = time.monotonic()
        yield
        self._data_wait_s += time.monotonic() - start_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time within (a checkpoint, an evaluation) counts for no step."""
        start_s = time.monotonic()
        yield
        self._paused_s += time.monotonic() - start_s

    def take_seconds(self) -> float:
        """In steps since the last time this was asked, on this rank; not to be asked in a pause."""
        seconds = time.monotonic() - self._started_s - self._paused_s - self.taken_s
        self.taken_s += seconds
        return seconds

    def read(self, device: torch.device) -> dict[str, float]:
        """Means over steps and ranks by the objective's short names, plus the loop's own; then empty."""
        wall_s = max(time.monotonic() - self._started_s - self._paused_s, 1e-9)
        steps = max(self._num_steps, 1)
        values = {name: total / steps for name, total in self._sums.items()}
        values["step_s"] = torch.tensor(wall_s / steps, device=device)
        values["data_wait_fraction"] = torch.tensor(self._data_wait_s / wall_s, device=device)
        means = {name: value.item() for name, value in all_reduce_mean(values).items()}
        means["samples_per_s"] = self._num_samples / steps / means["step_s"]
        self.begin()
        return means


def memory_bytes(device: torch.device) -> int:
    """Peak memory of the device, or the process's resident memory on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
