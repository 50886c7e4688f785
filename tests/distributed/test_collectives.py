"""What ranks say to each other, apart from losses (``test_objectives_distributed.py``)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.collectives import gather_to_rank_zero, rank_and_world_size
from ranks import leave_record, process_group

NUM_RANKS = 3
PIECES = (1, 30, 64 * 2**20)
"""Bytes at once: less than one for each rank, a few, and more than all have to say."""


def words(rank: int) -> dict[str, Any]:
    return {"rank": rank, "text": "x" * 50 * rank, "numbers": list(range(rank))}


def run_rank(folder: Path) -> None:
    with process_group("all"):
        rank, _ = rank_and_world_size()
        leave_record(folder, [gather_to_rank_zero(words(rank), torch.device("cpu"), most) for most in PIECES])


def test_rank_zero_hears_all_whatever_travels_at_once(
    run_ranks: Callable[[str, int, Path], list[Any]], tmp_path: Path
) -> None:
    first, *others = run_ranks(__file__, NUM_RANKS, tmp_path)
    assert first == [[words(rank) for rank in range(NUM_RANKS)]] * len(PIECES)
    assert others == [[None] * len(PIECES)] * (NUM_RANKS - 1)


@pytest.mark.parametrize("value", [None, {"a": 1}])
def test_without_a_process_group_the_one_rank_hears_itself(value: Any) -> None:
    assert gather_to_rank_zero(value, torch.device("cpu")) == [value]


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
