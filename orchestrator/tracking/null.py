"""The tracker of runs that leave no record, such as those that only time a step."""

from collections.abc import Mapping

from orchestrator.tracking.tracker import RunStatus, Unshipped


class NullTracker:
    """Implements ``Tracker`` over nothing."""

    def run_id(self, timeout_s: float = 0.0) -> str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_text(self, name: str, text: str) -> None: ...

    def log_input(self, name: str, uri: str, digest: str) -> None: ...

    def log_checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def log_removal(self, checkpoint_uri: str) -> None: ...

    def log_evaluation(
        self, checkpoint_uri: str, step: int, metrics: Mapping[str, float], dataset: str, digest: str
    ) -> None: ...

    def log_version(self, checkpoint_uri: str, step: int, model: str, alias: str, run_uri: str) -> None: ...

    def finish(self, status: RunStatus, reason: str = "") -> None: ...

    def close(self, timeout_s: float = 30.0) -> Unshipped:
        return Unshipped(entries=0, size_bytes=0, refused=0, dropped=0, journal="")
