"""A sample as it lies in a shard, and the faults of content that skip it."""

from dataclasses import dataclass

from orchestrator.columns import SKIP_REASONS


@dataclass(frozen=True)
class RawSample:
    """The undecoded parts of one sample."""

    index: int
    """Position within its shard, from 0."""
    key: str
    """What the parts share of their names: folder and base name up to its first dot (for Parquet, the index)."""
    members: dict[str, bytes]
    """By extension, in lower case and without its dot, or by column."""
    refused: str = ""
    """Which member of it is refused and why, where one is: then none is read, and ``members`` is empty."""

    def require_members(self) -> None:
        """Raises BadSampleError ``member_refused``."""
        if self.refused:
            raise BadSampleError("member_refused")


class BadSampleError(Exception):
    """A sample whose content cannot be used; ``reason`` is one of ``columns.SKIP_REASONS``. Never leaves ``data``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def code(self) -> int:
        """Index into ``columns.SKIP_REASONS``."""
        return SKIP_REASONS.index(self.reason)
