"""Evaluation over 2 and 3 gloo processes against one process. Each world starts once and runs all its cases."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from layout_files import WNIDS, write_clip_benchmark, write_folders
from orchestrator import columns
from orchestrator.data.blocks import BlockFormat
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.errors import EvaluationError, OrchestratorError, ShardReadError
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.exchange import share_work
from orchestrator.evaluation.features import extract_features
from orchestrator.evaluation.questions import EvaluationSet
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import EvaluationSpec, LayoutSpec
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.targets import TargetSpec
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import ObjectInfo, open_store
from orchestrator.training.heldout import read_heldout_batches
from orchestrator.training.judge import open_evaluation_set
from ranks import leave_record, process_group

COLORS = ("red", "green", "blue")
TARGETS = {
    "color": TargetSpec(classes=COLORS, named_in_captions=True, templates=("the {}", "a {} thing")),
    "bright": TargetSpec(classes=("0", "1"), named_in_captions=False),
}
ROW_COUNTS = (1, 2, 5, 37)  # fewer rows than ranks, uneven ranks, uneven batches
GROUP_TIMEOUT_S = 3
SLOW_FIT_S = 6
LARGE_RECORD_NUMBERS = 1_200_000  # 10 MB as JSON, where 8 MiB end the connection


@dataclass(frozen=True)
class Batch:
    index: np.ndarray
    image: np.ndarray
    targets: dict[str, list[str | int]]
    captions: list[tuple[str, ...]]


def read(num_rows: int, rank: int, world_size: int, batch_size: int = 8) -> Iterator[Batch]:
    """Rank r reads rows r, r + W, ...; an image depends on its row alone."""
    own = np.arange(rank, num_rows, world_size)
    for first in range(0, len(own), batch_size):
        index = own[first : first + batch_size]
        image = np.stack([np.random.default_rng(i).integers(0, 120, (4, 4, 3)) for i in index]).astype(np.uint8)
        image[np.arange(len(index)), :, :, index % 3] += 40
        bright: list[str | int] = [int(i % 5 == 0) for i in index]
        image[:, 0, 0, :] += 60 * (index % 5 == 0).astype(np.uint8)[:, None]
        captions = [(f"the {COLORS[i % 3]}", f"thing {i}") for i in index]
        yield Batch(index, image, {"color": [COLORS[i % 3] for i in index], "bright": bright}, captions)


class JudgedModel:
    """Integer arithmetic, so that batches of other sizes give the same bits.

    As a model does whose weights are spread over ranks, each image pass communicates: it fails when out of step.
    """

    encode_texts: Callable[[list[str]], Tensor] | None
    match_synsets = None

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.encode_texts = lambda texts: torch.tensor([[float(c in text) for c in COLORS] for text in texts])

    def encode_images(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        if self.world_size > 1:
            present = torch.ones(1)
            dist.all_reduce(present)
            assert present.item() == self.world_size
        return {"pooled": image_BHWC.flatten(1), "embedding": image_BHWC.long().sum(dim=(1, 2))}


def judge(rank: int, world_size: int) -> dict[str, Any]:
    """What must not depend on the world size."""
    model = JudgedModel(world_size)
    features = {}
    for num_rows in ROW_COUNTS:
        found = extract_features(model.encode_images, read(num_rows, rank, world_size), world_size)
        values = {name: feature.tolist() for name, feature in found.features.items()}
        features[str(num_rows)] = [found.index.tolist(), values, list(found.targets.values()), found.captions]
    one = EvaluationSet("colors", TARGETS, read(200, rank, world_size))
    results = evaluate(model, [one], EvaluationSpec(), rank, world_size)
    return {"features": features, "results": [result.to_dict() for result in results]}


def open_folders(folder: Path, rank: int, world_size: int) -> tuple[int, list[list[Any]]]:
    """How often this rank lists a set of image folders, and the rows and labels that it has of it."""
    root = folder / "shared-folders"
    if rank == 0:
        write_folders(root / "val", 2)
        write_folders(root / "train", 4, first=100)
    dist.barrier()
    lists = 0
    list_files = LocalStore.list

    def counted(store: LocalStore, prefix: str = "") -> tuple[ObjectInfo, ...]:
        nonlocal lists
        lists += 1
        return list_files(store, prefix)

    LocalStore.list = counted  # type: ignore[method-assign]
    spec = EvaluationSpec(sets=["one"], layouts={"one": LayoutSpec(train_samples=10)}, probes=["linear_probe"])
    found = open_evaluation_set("one", str(root), S3Spec(), 4, spec, rank, world_size)
    rows = [
        list(row) for batch in found.batches for row in zip(batch.index.tolist(), batch.targets["class"], strict=True)
    ]
    LocalStore.list = list_files  # type: ignore[method-assign]
    return lists, rows


def open_absent_folder(folder: Path, rank: int, world_size: int) -> str:
    """What each rank raises for a set that is not there."""
    spec = EvaluationSpec(sets=["one"], probes=["linear_probe"])
    with pytest.raises(OrchestratorError) as raised:
        open_evaluation_set("one", str(folder / "absent"), S3Spec(), 4, spec, rank, world_size)
    return f"{type(raised.value).__name__}: {raised.value}"


def heldout_batches(folder: Path, rank: int, world_size: int) -> list[list[int]]:
    """Rows of each global held-out batch of 12, from a set of 50 rows that this rank writes."""
    root = folder / f"heldout-{rank}-of-{world_size}"
    write_clip_benchmark(root, "test", [b"0"] * 50)
    store = open_store(str(root / "test"))
    save_index(store, index_dataset(store))
    spec = ShardsSpec(kind="shards", train="unused", image_fields=("png",), caption_fields=("cls",))
    format = BlockFormat((columns.IMAGE,), 4, 8, 4, None, None)
    own = [batch[columns.INDEX].tolist() for batch in read_heldout_batches(store, spec, format, 12 // world_size)]
    by_rank: list[Any] = [own]
    if world_size > 1:
        by_rank = [None] * world_size
        dist.all_gather_object(by_rank, own)
    return [sorted(row for part in parts for row in part) for parts in zip(*by_rank, strict=True)]


def share_a_slow_fit(rank: int, world_size: int) -> list[dict[str, Any]]:
    """Rank 0's second item takes twice the group's time-out; the other ranks are done long before."""

    def fit(item: int) -> dict[str, Any]:
        time.sleep(SLOW_FIT_S if item == world_size else 0)
        return {"item": item, "rank": rank}

    items = [lambda item=item: fit(item) for item in range(world_size + 1)]
    return share_work(items, rank, world_size)


def share_a_large_record(rank: int, world_size: int) -> list[int]:
    """Numbers by rank; what the last rank sends is more than the group's store takes in one value."""
    count = LARGE_RECORD_NUMBERS if rank == world_size - 1 else rank
    records = share_work([lambda: {"numbers": list(range(count))}] * world_size, rank, world_size)
    assert all(record["numbers"] == list(range(len(record["numbers"]))) for record in records)
    return [len(record["numbers"]) for record in records]


def share_a_fit_that_fails(rank: int, world_size: int, fault: Exception) -> str:
    def fail() -> dict[str, Any]:
        raise fault

    try:
        share_work([dict, fail], rank, world_size)
    except (ArithmeticError, EvaluationError, ShardReadError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def run_rank(folder: Path) -> None:
    with process_group("long"):
        rank, world_size = dist.get_rank(), dist.get_world_size()
        found = judge(rank, world_size)
        found["heldout"] = heldout_batches(folder, rank, world_size)
        found["folders"] = open_folders(folder, rank, world_size)
        found["absent"] = open_absent_folder(folder, rank, world_size)
        found["large"] = share_a_large_record(rank, world_size)
        dist.barrier()
    with process_group("short", timeout_s=GROUP_TIMEOUT_S):
        found["slow"] = share_a_slow_fit(rank, world_size)
        found["failed"] = share_a_fit_that_fails(rank, world_size, ArithmeticError("no minimum"))
        found["unread"] = share_a_fit_that_fails(rank, world_size, ShardReadError("the store is away"))
        dist.barrier()
    leave_record(folder, found)


@pytest.fixture(scope="module", params=[2, 3])
def world(
    request: pytest.FixtureRequest, run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each rank of a world found."""
    return run_ranks(__file__, request.param, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds without a process group."""
    torch.set_num_threads(1)
    return judge(0, 1)


def test_one_process_finds_every_row_once_and_learns_something(alone: dict[str, Any]) -> None:
    for num_rows in ROW_COUNTS:
        assert alone["features"][str(num_rows)][0] == list(range(num_rows))
    scores = {(r["probe"], r["feature"], r["target"]): r["scores"] for r in alone["results"]}
    assert len(scores) == 12
    assert scores["zero_shot", "embedding", "color"]["accuracy"]["value"] > 0.8
    assert scores["linear_probe", "pooled", "color"]["accuracy"]["value"] > 0.6


def test_every_rank_has_the_rows_features_and_targets_of_one_process(
    world: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for found in world:
        assert found["features"] == alone["features"]


def test_every_rank_has_the_results_of_one_process(world: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for found in world:
        assert found["results"] == alone["results"]


def test_rank_0_lists_the_files_of_a_set_for_all(world: list[dict[str, Any]]) -> None:
    first, *others = [found["folders"][0] for found in world]
    assert first > 0
    assert not any(others)
    rows = sorted(row for found in world for row in found["folders"][1])
    train = [6 + place * 12 // 10 for place in range(10)]
    assert rows == [[row, WNIDS[(row // 2) if row < 6 else (row - 6) // 4]] for row in [*range(6), *train]]


def test_every_rank_raises_what_rank_0_met_when_it_opened_a_set(world: list[dict[str, Any]]) -> None:
    (said,) = {found["absent"] for found in world}
    assert re.match(r"StorageAccessError: .*absent", said)


def test_held_out_batches_hold_the_same_rows_at_every_world_size(world: list[dict[str, Any]]) -> None:
    for found in world:
        assert found["heldout"] == [list(range(first, first + 12)) for first in range(0, 48, 12)]


def test_a_fit_longer_than_the_groups_time_out_reaches_all_ranks(world: list[dict[str, Any]]) -> None:
    world_size = len(world)
    for found in world:
        assert found["slow"] == [{"item": i, "rank": i % world_size} for i in range(world_size + 1)]


def test_records_larger_than_one_value_of_the_store_reach_all_ranks(world: list[dict[str, Any]]) -> None:
    for found in world:
        assert found["large"] == [*range(len(world) - 1), LARGE_RECORD_NUMBERS]


def test_a_fit_that_fails_ends_all_ranks_with_its_reason(world: list[dict[str, Any]]) -> None:
    messages = [found["failed"] for found in world]
    assert messages.pop(1) == "ArithmeticError: no minimum"
    assert set(messages) == {"EvaluationError: evaluation failed on rank 1: ArithmeticError: no minimum"}


def test_what_may_pass_is_tried_again_whichever_rank_met_it(world: list[dict[str, Any]]) -> None:
    messages = [found["unread"] for found in world]
    assert messages.pop(1) == "ShardReadError: the store is away"
    assert set(messages) == {"ShardReadError: evaluation failed on rank 1: ShardReadError: the store is away"}


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
