"""The held-out loss: the objective's own loss on fixed rows, in batches that never change during a run."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from orchestrator.collectives import rank_and_world_size
from orchestrator.data.blocks import BlockFormat, Row, unpack_block
from orchestrator.data.evaluation_set import EvaluationRow, read_evaluation_rows
from orchestrator.data.index import load_index
from orchestrator.errors import DatasetError
from orchestrator.objectives.objective import Objective
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import Store, open_store
from orchestrator.training.step import to_device

MAX_ROWS = 8192
"""Rows that are read, over all ranks: enough for a loss to two digits, and they stay in memory."""

Arrays = dict[str, npt.NDArray[np.generic]]


def read_plan_heldout(plan: Plan, format: BlockFormat) -> list[Arrays]:
    """This rank's batches of the plan's held-out set; none where the plan has none."""
    data = plan.data
    if data.heldout is None or not isinstance(data.spec, ShardsSpec):
        return []
    store = open_store(data.heldout.uri, plan.s3)
    return read_heldout_batches(store, data.spec, format, plan.batch.worker_size)


def read_heldout_batches(store: Store, spec: ShardsSpec, format: BlockFormat, worker_size: int) -> list[Arrays]:
    """This rank's batches, as many and as large on every rank; centre crops, first captions.

    The batches of all ranks together are a slice of the set, which depends on the global batch size alone: an
    objective that compares the rows of a batch has the same loss at every world size.

    Args:
        worker_size: rows of a batch; fewer when the set is smaller than one global batch.

    Raises:
        DatasetError: no index, or fewer rows than ranks.
    """
    index = load_index(store)
    if index is None:
        raise DatasetError(f"data.heldout: {store.uri} has no index; run: orchestrator data index {store.uri}")
    rank, world_size = rank_and_world_size()
    most_each = min(MAX_ROWS, index.num_samples) // world_size
    rows = list(
        read_evaluation_rows(
            store,
            index,
            format.image_size,
            rank,
            world_size,
            image_fields=spec.image_fields,
            caption_fields=spec.caption_fields,
            max_samples=MAX_ROWS,
            annotations=format.annotations,
            run_length=max(1, min(worker_size, most_each)),
        )
    )
    num_rows = _least_over_ranks(len(rows))
    size = min(worker_size, num_rows)
    if size == 0:
        raise DatasetError(f"data.heldout: {store.uri} holds fewer rows than the {world_size} workers")
    starts = range(0, num_rows - size + 1, size)
    return [_pack(rows[start : start + size], format) for start in starts]


def heldout_loss(
    objective: Objective, batches: Sequence[Arrays], device: torch.device, micro_size: int | None = None
) -> float:
    """Mean loss over the batches of all ranks; a collective. ``objective`` has whole weights and is in eval mode.

    Args:
        micro_size: most rows that are encoded at once, as in training; none: a whole batch.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for arrays in batches:
        num_rows = len(next(iter(arrays.values())))
        size = micro_size or num_rows
        parts = [{name: a[at : at + size] for name, a in arrays.items()} for at in range(0, num_rows, size)]
        features = [objective(to_device(part, objective.columns, device), stage="encode") for part in parts]
        loss, _ = objective(features, stage="loss")
        total += loss
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total) / (len(batches) * rank_and_world_size()[1])


def _pack(rows: Sequence[EvaluationRow], format: BlockFormat) -> Arrays:
    packed = [Row((row.caption,), (0, 0, 0, row.index), annotations=row.annotations) for row in rows]
    images_BHWC = np.stack([row.image for row in rows])
    return unpack_block(format.pack(images_BHWC, packed, (0, 0, 0)), format.image_size)


def _least_over_ranks(number: int) -> int:
    least = torch.tensor(number)
    if dist.is_initialized():
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        least = least.to(device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return int(least)
