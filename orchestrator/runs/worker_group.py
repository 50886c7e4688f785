"""One start of a job's workers under Ray Train, which runs them and nothing more.

Ray Train retries every error alike and never refills its budget, and it would be a second opinion on which checkpoint
is the last. Both are decided by whoever starts a group.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.spec.plan import WorkersPlan

_COLLECTIVE_TIMEOUT_S = 600
_POLL_ENV = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
_POLL_S, _SLOWEST_POLL_S, _POLLS_PER_S = 0.25, 2.0, 128


class WorkerGroup:
    """All workers of a job, from their start to their end, which comes once. ``fit`` blocks, so in a thread."""

    def __init__(
        self, entry: Callable[[dict[str, Any]], Any], config: dict[str, Any], workers: WorkersPlan, name: str
    ) -> None:
        """``entry``: what each worker calls, with ``config``."""
        self.result: Any = None
        """What rank 0 returned."""
        self.failure: BaseException | None = None
        os.environ[_POLL_ENV] = str(poll_s(workers.count))
        self._folder = tempfile.TemporaryDirectory(prefix="vl-orchestrator-", ignore_cleanup_errors=True)
        self._trainer = _build_trainer(entry, config, workers, name, self._folder.name)
        self._thread = threading.Thread(target=self._fit, name="workers", daemon=True)

    def start(self) -> None:
        """Ask Ray for room, and begin once there is."""
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def forget(self) -> None:
        """Remove what Ray Train wrote on this machine."""
        self._folder.cleanup()

    def _fit(self) -> None:
        try:
            self.result = self._trainer.fit().return_value
        except BaseException as error:  # noqa: BLE001  (a thread must hand over whatever ended it)
            self.failure = error


def poll_s(num_workers: int) -> float:
    """Seconds between two looks at all workers: an end or a death is seen that much later, and each look asks all."""
    return min(max(_POLL_S, num_workers / _POLLS_PER_S), _SLOWEST_POLL_S)


def _build_trainer(
    entry: Callable[[dict[str, Any]], Any], config: dict[str, Any], workers: WorkersPlan, name: str, folder: str
) -> TorchTrainer:
    use_gpu = workers.accelerator == "cuda"
    return TorchTrainer(
        entry,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=use_gpu, resources_per_worker=_worker_resources(workers)
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,  # holds Ray's own state, no checkpoint
            # By default Ray starts again for ever where no room is found in time, or a node was preempted.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )


def _worker_resources(workers: WorkersPlan) -> dict[str, float]:
    resources: dict[str, float] = {"CPU": workers.cpus}
    if workers.accelerator == "cuda":
        resources["GPU"] = 1
    return resources
