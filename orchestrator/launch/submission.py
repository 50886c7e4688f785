"""A job that was handed to a cluster, as Ray's list has it."""

from dataclasses import dataclass

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Submission:
    """A job of ours as Ray knows it."""

    id: str
    run: str
    """The job's name; of a run, the run's."""
    status: str
    """Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None
    started_at: float
    """Seconds since 1970."""

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED
