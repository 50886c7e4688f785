"""A tracker that records nothing: ranks other than 0, and work that is not a run."""

from collections.abc import Mapping

from orchestrator.tracking.tracker import RunStatus, Unshipped


class NullTracker:
    """Implements ``Tracker`` by doing nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def log_text(self, name: str, text: str) -> None:
        """Nothing."""

    def log_input(self, name: str, uri: str, digest: str) -> None:
        """Nothing."""

    def log_checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def log_evaluation(
        self, checkpoint_uri: str, step: int, metrics: Mapping[str, float], dataset: str, digest: str
    ) -> None:
        """Nothing."""

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """Nothing."""

    def close(self, timeout_s: float = 30.0) -> Unshipped:
        """Nothing is ever left."""
        return Unshipped(entries=0, size_bytes=0, refused=0, dropped=0, journal="none")
