"""How much of Ray's object stores is in use, as the nodes report it, over all of them."""

import ray


class StorePeak:
    """The most that was seen in use: since the last ``take``, and in all."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._since_bytes = 0

    def look(self) -> None:
        """Ask Ray once; nodes report ten times a second."""
        self._since_bytes = max(self._since_bytes, used_store_bytes())
        self.total_bytes = max(self.total_bytes, self._since_bytes)

    def take(self) -> int:
        """What was seen since the last call."""
        taken, self._since_bytes = self._since_bytes, 0
        return taken


def used_store_bytes() -> int:
    """Bytes of objects in the stores of all live nodes."""
    there, free = ray.cluster_resources(), ray.available_resources()
    return int(there.get("object_store_memory", 0) - free.get("object_store_memory", 0))
