"""What one ``log_metrics`` call costs the training loop, with MLflow in reach and out of reach.

Prints microseconds per call, its share of a 100 ms step, and how much longer a loop of compute-bound steps takes
with the writer thread at work beside it than without a tracker, when every step is recorded. Read the shares, not
the microseconds.

    python benchmarks/tracking.py [--calls 1000] [--metrics 20]
"""

import argparse
import logging
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import torch
from torch import nn

from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.tracker import RunTarget, Tracker

STEP_S = 0.1
CALL_PAUSE_S = 0.01
ROUNDS = 5
ROUND_STEPS = 20
SETTLE_S = 3.0  # the writer thread delivers every 2 s: let it finish before steps without a tracker are timed


def measure_calls_us(tracker: Tracker, num_calls: int, values: dict[str, float]) -> list[float]:
    """Microseconds of each call, the calls ten times as frequent as steps of 100 ms."""
    costs_us = []
    for step in range(num_calls):
        started_ns = time.perf_counter_ns()
        tracker.log_metrics(values, step)
        costs_us.append((time.perf_counter_ns() - started_ns) / 1000)
        time.sleep(CALL_PAUSE_S)
    return costs_us


def compute(num_passes: int) -> None:
    """A stand-in for a training step: many short torch operations, each of which gives up the interpreter's lock."""
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(20)))
    batch_BD = torch.ones(64, 128)
    for _ in range(num_passes):
        model(batch_BD).sum().backward()


def calibrate_step() -> int:
    """How many passes make a step of about ``STEP_S``."""
    compute(5)
    started_s = time.perf_counter()
    compute(20)
    return max(1, round(20 * STEP_S / (time.perf_counter() - started_s)))


def loop_s(tracker: Tracker | None, num_passes: int, values: dict[str, float]) -> float:
    """Seconds of some steps that compute and log."""
    started_s = time.perf_counter()
    for step in range(ROUND_STEPS):
        compute(num_passes)
        if tracker is not None:
            tracker.log_metrics(values, step)
    return time.perf_counter() - started_s


def measure_slowdown(tracker: Tracker, values: dict[str, float]) -> float:
    """Median over rounds of loop time with the tracker over loop time without."""
    num_passes = calibrate_step()
    ratios = []
    for _ in range(ROUNDS):
        time.sleep(SETTLE_S)
        without_s = loop_s(None, num_passes, values)
        ratios.append(loop_s(tracker, num_passes, values) / without_s)
    return statistics.median(ratios)


def measure(name: str, tracking_uri: str, num_calls: int, values: dict[str, float]) -> None:
    """Print one line for one state of MLflow."""
    with tempfile.TemporaryDirectory() as folder:
        target = RunTarget(tracking_uri, "benchmark", name, uuid4().hex)
        tracker = open_tracker(target, Path(folder), "worker", owns_run=True, samples_system=True)
        tracker.run_id(timeout_s=30 if tracking_uri.startswith("sqlite") else 1)
        costs_us = measure_calls_us(tracker, num_calls, values)
        slowdown = measure_slowdown(tracker, values)
        left = tracker.close(timeout_s=60 if tracking_uri.startswith("sqlite") else 1)
    median_us = statistics.median(costs_us)
    slowest_us = statistics.quantiles(costs_us, n=100)[98]
    sys.stdout.write(
        f"{name:<14} median {median_us:6.1f} us a call, 99th percentile {slowest_us:7.1f} us, "
        f"{median_us / (STEP_S * 1e6):.4%} of a {STEP_S * 1000:.0f} ms step; "
        f"step with tracker / without {slowdown:.3f}; {left.entries} entries left\n"
    )


def main() -> None:
    """Measure both states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--metrics", type=int, default=20)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # "out of reach" is what the second line measures
    torch.set_num_threads(1)
    values = {f"train/metric_{index}": index / 7 for index in range(arguments.metrics)}
    with tempfile.TemporaryDirectory() as folder, socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        measure("in reach", f"sqlite:///{folder}/mlflow.db", arguments.calls, values)
        measure("out of reach", f"http://127.0.0.1:{closed_port.getsockname()[1]}", arguments.calls, values)


if __name__ == "__main__":
    main()
