"""What img2dataset notes beside a tar shard, ``NNNNN_stats.json``: how many images it holds."""

import json

from orchestrator.data.retry import retried
from orchestrator.storage.store import Store

_SUFFIX = "_stats.json"  # instead of the shard's ending


class StatsDamagedError(Exception):
    """No JSON object, or one whose ``successes`` is no number. Never leaves ``data``."""


def stats_path(shard: str) -> str:
    """Where the note of a shard lies, if it has one."""
    return shard.rpartition(".")[0] + _SUFFIX


def read_successes(store: Store, path: str) -> int:
    """Images in the tar (``count`` includes the downloads that failed).

    Raises:
        StatsDamagedError: the note says nothing of the kind.
        ShardReadError: reading failed after its retries.
    """
    data = retried(lambda: store.read_bytes(path))
    try:
        successes = json.loads(data)["successes"]
        if not isinstance(successes, int) or successes < 0:
            raise TypeError(f"successes is {successes!r}")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise StatsDamagedError(f"{path}: {error!r}") from error
    return successes
