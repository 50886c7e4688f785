"""Too many bad samples end all ranks with one message, after the quarantine names what every rank skipped.

Run as a script, this file is one rank.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from orchestrator import columns
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.order import SampleOrder, WindowShuffle
from orchestrator.data.quarantine import read_quarantine
from orchestrator.errors import BadSampleLimitError
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import open_store
from orchestrator.training.run_ledger import RunLedger
from orchestrator.training.shared_ledger import SharedLedger
from ranks import leave_record, process_group

WORLD_SIZE, SHARD_SIZES, ROWS = 3, (64, 128, 64), 16
SHARDS = [f"s3://pool/{number}.tar" for number in range(len(SHARD_SIZES))]


def rows_of(rank: int) -> list[tuple[int, int]]:
    """(shard, index) of a rank's block: of every shard, so that most rows travel to the rank that counts them."""
    return [(number % len(SHARD_SIZES), rank * ROWS + number) for number in range(ROWS)]


def block_of(rank: int) -> dict[str, np.ndarray]:
    """Half of the rows were bad."""
    block = {name: np.zeros(ROWS, np.int32) for name in (*columns.PROVENANCE, *columns.SKIPPED)}
    shard, index = np.array(rows_of(rank), np.int32).T
    block |= {columns.SHARD: shard, columns.SKIPPED_SHARD: shard, columns.INDEX: index, columns.SKIPPED_INDEX: index}
    block[columns.SKIP_REASON] = np.where(np.arange(ROWS) < ROWS // 2, 2, 0).astype(np.int32)
    return block


def build_ledger(folder: Path, rank: int, world_size: int) -> RunLedger:
    dataset, batches = DatasetOrder(ChunkTable(SHARD_SIZES), 0), Batches(global_size=ROWS * world_size)
    shared = SharedLedger([dataset.table], rank, world_size, torch.device("cpu"), lambda _: dataset.masks())
    order = SampleOrder([dataset], WindowShuffle(ROWS * world_size, 0, batches)) if rank == 0 else None
    return RunLedger(shared, order, open_store(str(folder)), [SHARDS], batches)


def run_rank(folder: Path) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    data: Any = SimpleNamespace(spec=ShardsSpec(kind="shards", train="x"))
    with process_group("limit"):
        ledger = build_ledger(folder, rank, world_size)
        ledger.add(block_of(rank), left_out=False)
        try:
            ledger.check_skipped(data, 1, ROWS * world_size, ledger.skipped())
        except BadSampleLimitError as error:
            leave_record(folder, str(error))


def test_all_ranks_end_with_what_and_where_all_of_them_skipped(
    run_ranks: Callable[[str, int, Path], list[str]], tmp_path: Path
) -> None:
    (said,) = set(run_ranks(__file__, WORLD_SIZE, tmp_path))
    assert "24 of 48 samples had to be skipped" in said
    assert f"{tmp_path}/quarantine/step-00000001.parquet" in said
    bad = [row for rank in range(WORLD_SIZE) for row in rows_of(rank)[: ROWS // 2]]
    counts = {name: sum(shard == number for shard, _ in bad) for number, name in enumerate(SHARDS)}
    assert all(f"{name} {number}" in said for name, number in counts.items())
    named = read_quarantine(open_store(str(tmp_path)))
    found = zip(named["shard"].to_pylist(), named["index"].to_pylist(), strict=True)
    assert sorted(found) == sorted((SHARDS[shard], index) for shard, index in bad)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
