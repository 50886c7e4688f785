"""The door that Ray Train opens on every worker. The driver names it without importing what is behind it (seconds)."""

from typing import Any

from orchestrator.training.reports import WorkerResult


def train_on_worker(config: dict[str, Any]) -> WorkerResult:
    """Train as one rank; ``config`` holds the Plan as JSON (``plan``) and the driver's line (``link``).

    Raises:
        OrchestratorError: whatever ends the run by name; the driver decides about another attempt.
    """
    from orchestrator.training.worker import run_worker

    return run_worker(config["plan"], config["link"])
