"""Samples of this very machine, and the text that nvidia-smi prints."""

import pytest

from orchestrator.tracking.metrics import CPU_FRACTION, MEMORY_USED_BYTES, PROCESS_MEMORY_BYTES, is_metric
from orchestrator.tracking.system import SystemSampler, parse_gpu_query


def test_a_sample_names_rows_of_the_table() -> None:
    sample = SystemSampler()()
    assert all(is_metric(name) for name in sample)
    assert 0 <= sample[CPU_FRACTION] <= 1
    assert 0 < sample[PROCESS_MEMORY_BYTES] < 2**50
    assert sample[MEMORY_USED_BYTES] > 0


def test_gpu_lines_become_metrics_per_gpu() -> None:
    assert parse_gpu_query("0, 37, 1024\n1, 0, 3\n") == {
        "system/gpu_0/busy_fraction": 0.37,
        "system/gpu_0/memory_used_bytes": 2.0**30,
        "system/gpu_1/busy_fraction": 0.0,
        "system/gpu_1/memory_used_bytes": 3 * 2.0**20,
    }


def test_other_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="unpack"):
        parse_gpu_query("No devices were found")
