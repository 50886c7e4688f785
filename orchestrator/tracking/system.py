"""Samples the worker's machine: processor, memory and, where ``nvidia-smi`` is there, GPUs."""

import logging
import shutil
import subprocess

import psutil

from orchestrator.tracking.metrics import CPU_FRACTION, MEMORY_USED_BYTES, PROCESS_MEMORY_BYTES, gpu_metrics

logger = logging.getLogger(__name__)

_GPU_QUERY = ("--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits")


class SystemSampler:
    """Each call returns one sample of ``system/`` metrics; the processor's share is that since the last call."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._nvidia_smi = shutil.which("nvidia-smi")
        self._sources = [self._sample_host] + ([self._sample_gpus] if self._nvidia_smi else [])
        psutil.cpu_percent()  # the first reading is meaningless

    def __call__(self) -> dict[str, float]:
        sample: dict[str, float] = {}
        for source in tuple(self._sources):
            try:
                sample |= source()
            except (OSError, ValueError, psutil.Error, subprocess.SubprocessError) as error:
                logger.warning("some system metrics are missing from here on: %s", error)
                self._sources.remove(source)
        return sample

    def _sample_host(self) -> dict[str, float]:
        return {
            CPU_FRACTION: psutil.cpu_percent() / 100,
            MEMORY_USED_BYTES: float(psutil.virtual_memory().used),
            PROCESS_MEMORY_BYTES: float(self._process.memory_info().rss),
        }

    def _sample_gpus(self) -> dict[str, float]:
        command = [str(self._nvidia_smi), *_GPU_QUERY]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return parse_gpu_query(answer.stdout)


def parse_gpu_query(text: str) -> dict[str, float]:
    """Metrics from ``nvidia-smi`` lines ``index, busy percent, MiB used``. Raises ValueError on other text."""
    metrics: dict[str, float] = {}
    for line in text.strip().splitlines():
        index, busy, used = line.split(",")
        metrics |= gpu_metrics(int(index), float(busy) / 100, float(used) * 2**20)
    return metrics
