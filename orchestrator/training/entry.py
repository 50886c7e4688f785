"""The doors that Ray Train opens on every worker. The driver names them without importing what is behind (seconds)."""

from typing import Any

from orchestrator.training.reports import WorkerResult


def train_on_worker(config: dict[str, Any]) -> WorkerResult:
    """Train as one rank; ``config`` holds the Plan as JSON (``plan``) and the driver's line (``link``).

    Raises:
        OrchestratorError: whatever ends the run by name; the driver decides about another attempt.
    """
    from orchestrator.training.worker import run_worker

    return run_worker(config["plan"], config["link"])


def judge_on_worker(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge a checkpoint as one rank; ``config`` holds a Plan as JSON (``plan``), ``step`` and ``weights``.

    Returns on rank 0 each ``ProbeResult.to_dict()``, predictions included; on others nothing.

    Raises:
        OrchestratorError: whatever is wrong with checkpoint or evaluation sets.
    """
    from orchestrator.training.judging_worker import judge_as_worker

    return judge_as_worker(config["plan"], config["step"], config["weights"])
