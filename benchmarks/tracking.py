"""What one ``log_metrics`` call costs the training loop, with MLflow in reach and out of reach.

Prints microseconds per call, its share of a 100 ms step, and how much longer a loop of compute-bound steps takes
with the writer thread at work beside it than without a tracker. Read the shares, not the microseconds.

    python benchmarks/tracking.py [--calls 2000] [--metrics 20]
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

import numpy as np

from orchestrator.tracking.mlflow.open import open_tracker
from orchestrator.tracking.null import NullTracker
from orchestrator.tracking.tracker import RunTarget, Tracker

STEP_S = 0.1
LOOP_STEPS = 100


def measure_calls_us(tracker: Tracker, num_calls: int, values: dict[str, float]) -> list[float]:
    """Microseconds of each call, the calls 1 ms apart."""
    costs_us = []
    for step in range(num_calls):
        started_ns = time.perf_counter_ns()
        tracker.log_metrics(values, step)
        costs_us.append((time.perf_counter_ns() - started_ns) / 1000)
        time.sleep(0.001)
    return costs_us


def calibrate_step() -> int:
    """How many matrix products make a step of about ``STEP_S``."""
    started_s = time.perf_counter()
    compute(10)
    return max(1, round(10 * STEP_S / (time.perf_counter() - started_s)))


def compute(num_products: int) -> None:
    """A stand-in for a training step: native code in short calls from Python."""
    matrix = np.ones((256, 256), dtype=np.float32)
    for _ in range(num_products):
        matrix = matrix @ matrix * np.float32(1e-3)


def measure_loop_s(tracker: Tracker, num_products: int, values: dict[str, float]) -> float:
    """Median seconds of a step that computes and logs."""
    steps_s = []
    for step in range(LOOP_STEPS):
        started_s = time.perf_counter()
        compute(num_products)
        tracker.log_metrics(values, step)
        steps_s.append(time.perf_counter() - started_s)
    return statistics.median(steps_s)


def measure(name: str, tracking_uri: str, num_calls: int, values: dict[str, float]) -> None:
    """Print one line for one state of MLflow."""
    num_products = calibrate_step()
    with tempfile.TemporaryDirectory() as folder:
        target = RunTarget(tracking_uri, "benchmark", name, uuid4().hex)
        tracker = open_tracker(target, Path(folder), "worker", owns_run=True, samples_system=True)
        tracker.run_id(timeout_s=30 if tracking_uri.startswith("sqlite") else 1)
        costs_us = measure_calls_us(tracker, num_calls, values)
        without_s = measure_loop_s(NullTracker(), num_products, values)
        with_s = measure_loop_s(tracker, num_products, values)
        left = tracker.close(timeout_s=60 if tracking_uri.startswith("sqlite") else 1)
    median_us = statistics.median(costs_us)
    slowest_us = statistics.quantiles(costs_us, n=100)[98]
    sys.stdout.write(
        f"{name:<14} median {median_us:6.1f} us a call, 99th percentile {slowest_us:7.1f} us, "
        f"{median_us / (STEP_S * 1e6):.4%} of a {STEP_S * 1000:.0f} ms step; "
        f"step with tracker / without {with_s / without_s:.3f}; {left.entries} entries left\n"
    )


def main() -> None:
    """Measure both states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--metrics", type=int, default=20)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # "out of reach" is what the second line measures
    values = {f"train/metric_{index}": index / 7 for index in range(arguments.metrics)}
    with tempfile.TemporaryDirectory() as folder, socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        measure("in reach", f"sqlite:///{folder}/mlflow.db", arguments.calls, values)
        measure("out of reach", f"http://127.0.0.1:{closed_port.getsockname()[1]}", arguments.calls, values)


if __name__ == "__main__":
    main()
