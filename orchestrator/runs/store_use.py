"""How much of Ray's object stores is in use: what nodes report, over all of them."""

import ray


def used_store_bytes() -> int:
    """Bytes of objects in the stores of all live nodes, as of their last report (ten a second)."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return int(total.get("object_store_memory", 0) - free.get("object_store_memory", 0))
