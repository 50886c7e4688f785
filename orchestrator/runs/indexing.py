"""Indexing a folder of shards: what is said before, while and after it, and the index that stays beside the shards."""

import logging
import time
from dataclasses import dataclass

from orchestrator.data.index import DatasetIndex, load_index, save_index
from orchestrator.data.indexing import IndexingPlan, ReadCost, ReadMeter, execute_indexing, plan_indexing
from orchestrator.errors import DatasetError, StorageAccessError
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.storage.store import Store

_MOST_PROBLEMS = 20  # shown of one folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexingResult:
    """The index that was written, and what it took."""

    index: DatasetIndex
    plan: IndexingPlan
    cost: ReadCost
    minutes: float


def ensure_index(store: Store, on_progress: OnProgress | None = None) -> None:
    """Index a folder of shards that has no index, or one without all chunk tables; raises as ``index_shards``."""
    index = load_index(store)
    if index is None or index.num_counted:
        index_shards(store, on_progress)


def index_shards(store: Store, on_progress: OnProgress | None = None, counts_suffice: bool = False) -> IndexingResult:
    """Index a folder of shards, and keep the index beside its shards; reads only what the index there does not know.

    Args:
        counts_suffice: take the number of samples from img2dataset's sidecars, and leave chunk tables for later.

    Raises:
        DatasetError: no shards or no samples there.
        StorageAccessError: the folder does not open, or takes no index, without which readers find no samples.
    """
    started_s = time.monotonic()
    plan = plan_indexing(store, _earlier_index(store), counts_suffice)
    logger.info("%s", describe_indexing(plan))
    meter = ReadMeter()

    def show(done: int, total: int) -> None:
        if on_progress is not None:
            note = _pace(meter.cost, plan.most, time.monotonic() - started_s)
            on_progress(Progress(f"index {store.uri}", done, total, "shards", note))

    index = execute_indexing(plan, meter, show)
    for problem in index.problems[:_MOST_PROBLEMS]:
        logger.warning("%s/%s", store.uri, problem)
    if len(index.problems) > _MOST_PROBLEMS:
        logger.warning("%s: %s problems in all; its index holds them", store.uri, f"{len(index.problems):,}")
    try:
        save_index(store, index)
    except StorageAccessError as error:
        raise StorageAccessError(
            f"{store.uri} takes no index ({error}); its readers need one beside the shards: let someone who may "
            f"write there run: orchestrator data index {store.uri}"
        ) from error
    return IndexingResult(index, plan, meter.cost, (time.monotonic() - started_s) / 60)


def describe_indexing(plan: IndexingPlan) -> str:
    """What will be read of which shards, and about how long that takes."""
    parts = {"known": len(plan.kept), "counted by _stats.json": len(plan.counted), "to read": len(plan.scanned)}
    shards = ", ".join(f"{number:,} {what}" for what, number in parts.items() if number)
    return (
        f"index {plan.store.uri}: {len(plan.shards):,} shards ({shards}); at most {plan.most}, "
        f"about {plan.minutes:,.1f} minutes at 100 MB/s"
    )


def _pace(done: ReadCost, most: ReadCost, elapsed_s: float) -> str:
    """What was read so far, and how long the rest takes at that pace."""
    left_s = elapsed_s * max(most.num_bytes - done.num_bytes, 0) / max(done.num_bytes, 1)
    return f"{done}, at most {left_s / 60:,.1f} minutes left"


def _earlier_index(store: Store) -> DatasetIndex | None:
    try:
        return load_index(store, verify=False)
    except (DatasetError, StorageAccessError) as error:
        logger.info("%s", error)  # made anew
        return None
