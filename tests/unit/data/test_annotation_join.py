"""Annotations reach the rows of their samples in the task that decodes; what a sample lacks is said and counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator import columns
from orchestrator.data.annotation_header import Annotation, AnnotationColumn, Maker
from orchestrator.data.annotations import write_annotation
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.dense import encode_dense
from orchestrator.data.evaluation_set import read_evaluation_rows
from orchestrator.data.index import DatasetIndex, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.ledger import Ledger
from orchestrator.data.ledger_events import block_events
from orchestrator.data.ledger_report import report_ledger, total_rows
from orchestrator.data.metadata import key_array
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.errors import AnnotationError, BadSampleLimitError
from orchestrator.runs.annotations import read_annotation_facts
from orchestrator.spec.annotation import AnnotationPlan, Missing
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store, open_store

NUMBERS = (range(100), range(100, 130), range(130, 150))  # of the samples, by shard
NUM_SAMPLES, BLOCK, SIZE = 150, 25, 8
LACKING = {3, 64, 65, 99, *range(100, 130)}  # the second shard has no file
MAKER = Maker("tests", "1", "abc", "orchestrator label tests JOB.yaml")
THINGS = Annotation(
    "things",
    (
        AnnotationColumn("score", "number"),
        AnnotationColumn("labels", "labels", width=3),
        AnnotationColumn("vector", "embedding", width=2),
    ),
    MAKER,
)


def things_of(numbers: Sequence[int], lacking: set[int]) -> pa.Table:
    """Rows of all samples of a shard but those that lack them; 99 has a row without a score."""
    kept = [(at, number) for at, number in enumerate(numbers) if number not in lacking - {99}]
    return pa.table(
        {
            "index": pa.array([at for at, _ in kept], pa.int32()),
            "key": key_array([f"{number:05d}" for _, number in kept]),
            "score": pa.array([None if number in lacking else float(number) for _, number in kept], pa.float32()),
            "labels": pa.array([list(range(number % 4)) for _, number in kept], pa.list_(pa.int32())),
            "vector": pa.array([np.array([number, -1], np.float16) for _, number in kept], pa.list_(pa.float16(), 2)),
        }
    )


@dataclass(frozen=True)
class Pool:
    """A small data set whose samples carry their number."""

    store: Store
    index: DatasetIndex

    def annotate(self, annotation: Annotation = THINGS, lacking: set[int] = LACKING) -> None:
        for shard, numbers in zip(self.index.shards, NUMBERS, strict=True):
            if not lacking.issuperset(numbers):
                write_annotation(self.store, shard, annotation, things_of(numbers, lacking))

    def plan(self, missing: Missing, name: str = "things") -> AnnotationPlan:
        facts = read_annotation_facts(self.store, self.index, {name: name})[name]
        return AnnotationPlan(
            name=name,
            folder=name,
            columns=facts.columns,
            missing=missing,
            digests=(facts.digest,),
            heldout=facts.digest,
        )

    def read_epoch(self, plan: AnnotationPlan) -> list[Mapping[str, np.ndarray[Any, Any]]]:
        """All blocks of one epoch."""
        order = SampleOrder(
            [DatasetOrder(ChunkTable(self.index.shards.num_samples), 0)],
            WindowShuffle(BLOCK, 0, Batches(global_size=BLOCK)),
        )
        layout = BlockLayout(Batches(global_size=BLOCK), BLOCK, 1)
        reader = ShardsBlockReader(
            (ShardsSource.now(self.store, self.index.digest),),
            ShardsSpec(kind="shards", train="x"),
            order.shuffle,
            layout,
            BlockFormat((columns.IMAGE,), SIZE, 8, 4, None, None, (plan,)),
        )
        blocks = tuple(range(NUM_SAMPLES // BLOCK))
        task = BlockTask(blocks, order.window_visits(0, NUM_SAMPLES))
        return [unpack_block(block, SIZE) for block in reader.read_blocks(task)]

    def count(self, blocks: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, int]:
        """The ledger's totals of an epoch."""
        table = ChunkTable(self.index.shards.num_samples)
        ledger = Ledger([table.num_chunks])
        for block in blocks:
            ledger.add(block_events(block, [table.first_chunk]))
        order = SampleOrder([DatasetOrder(table, 0)], WindowShuffle(BLOCK, 0, Batches(global_size=BLOCK)))
        stored = ledger.to_bytes(lambda number: order.datasets[number].masks())
        again = Ledger.from_bytes(stored, [table.num_chunks], lambda number: order.datasets[number].masks(), "")
        return total_rows(report_ledger(again, order, 150))


@pytest.fixture
def pool(maker: Any, tmp_path: Path) -> Pool:
    for shard, numbers in enumerate(NUMBERS):
        maker.write_tar(f"{shard:05d}.tar", numbers)
    store = open_store(str(tmp_path))
    index = index_dataset(store)
    save_index(store, index)
    return Pool(store, index)


def numbers_of(block: Mapping[str, np.ndarray[Any, Any]]) -> list[int]:
    """Of the samples, by provenance."""
    places = zip(block["shard"].tolist(), block["index"].tolist(), strict=True)
    return [NUMBERS[shard][index] for shard, index in places]


def test_every_sample_meets_its_own_row_and_what_it_lacks_is_said(pool: Pool) -> None:
    pool.annotate()
    blocks = pool.read_epoch(pool.plan("keep"))
    for block in blocks:
        assert [block[name].dtype for name in ("things.score", "things.labels", "things.vector")] == ["f4", "i4", "f4"]
        for row, number in enumerate(numbers_of(block)):
            score, labels, vector = (block[f"things.{name}"][row] for name in ("score", "labels", "vector"))
            assert block["things.present"][row] == (number not in LACKING)
            if number in LACKING:
                assert np.isnan(score)
                assert (labels.tolist(), vector.tolist()) == ([-1, -1, -1], [0, 0])
            else:
                padded = [label if label < number % 4 else -1 for label in range(3)]
                assert (score, labels.tolist(), vector.tolist()) == (number, padded, [number, -1])
    assert sorted(number for block in blocks for number in numbers_of(block)) == list(range(NUM_SAMPLES))
    counts = {"expected": 150, "trained_once": 150, "unannotated": len(LACKING), "skipped": 0, "missing": 0}
    assert counts.items() <= pool.count(blocks).items()


def test_samples_without_are_skipped_where_the_objective_says_so(pool: Pool) -> None:
    lacking = LACKING - set(range(100, 130))
    pool.annotate(lacking=lacking)
    blocks = pool.read_epoch(pool.plan("skip"))
    assert all(block["things.present"].all() for block in blocks)
    reasons = np.concatenate([block[columns.SKIP_REASON] for block in blocks])
    assert {columns.SKIP_REASONS[code] for code in reasons.tolist()} == {"none", "annotation_missing"}
    skipped = np.concatenate([block["skipped_shard"] * 1000 + block["skipped_index"] for block in blocks])
    assert {NUMBERS[place // 1000][place % 1000] for place in skipped[reasons > 0].tolist()} == lacking
    counts = {"trained_once": 146, "skipped": 4, "substituted": 4, "unannotated": 0, "missing": 0, "repeated": 0}
    assert counts.items() <= pool.count(blocks).items()


def test_a_window_without_any_annotated_sample_ends_the_run(pool: Pool) -> None:
    pool.annotate(lacking=set(range(149)))
    with pytest.raises(BadSampleLimitError, match="annotation_missing"):
        pool.read_epoch(pool.plan("skip"))


def test_a_shard_that_was_written_again_refuses_its_annotation(pool: Pool, maker: Any) -> None:
    """The same keys and the same size, even: the new index has another version of the shard."""
    pool.annotate()
    plan = pool.plan("keep")
    maker.write_tar("00002.tar", NUMBERS[2])
    renewed = Pool(pool.store, index_dataset(pool.store))
    assert renewed.index.shards[2].size_bytes == pool.index.shards[2].size_bytes
    save_index(pool.store, renewed.index)
    for read in (lambda: renewed.read_epoch(plan), lambda: renewed.plan("keep")):
        with pytest.raises(AnnotationError, match=r"00002\.parquet was made for another version of 00002\.tar.*label"):
            read()


def test_a_row_with_another_key_than_its_sample_is_refused(pool: Pool) -> None:
    pool.annotate()
    table = things_of(NUMBERS[0], LACKING)
    swapped = key_array([f"{number + 1:05d}" for number in NUMBERS[0] if number not in LACKING - {99}])
    write_annotation(pool.store, pool.index.shards[0], THINGS, table.set_column(1, "key", swapped))
    with pytest.raises(AnnotationError, match=r"sample \d+ has key '\d+', its row '\d+'"):
        pool.read_epoch(pool.plan("keep"))


def test_files_of_several_makers_are_refused_before_and_during_a_run(pool: Pool) -> None:
    pool.annotate()
    plan = pool.plan("keep")
    other = replace(THINGS, maker=replace(MAKER, version="2"))
    write_annotation(pool.store, pool.index.shards[2], other, things_of(NUMBERS[2], LACKING))
    with pytest.raises(AnnotationError, match=r"not of one maker: tests 1 \(abc\) .* tests 2 \(abc\)"):
        pool.plan("keep")
    with pytest.raises(AnnotationError, match="of tests 2, settings abc: others than the run was planned with"):
        pool.read_epoch(plan)


def test_an_image_that_does_not_decode_skips_its_sample(pool: Pool) -> None:
    masks = Annotation("masks", (AnnotationColumn("mask", "mask"),), MAKER)
    for shard, numbers in zip(pool.index.shards, NUMBERS, strict=True):
        content = [mask_of(number) for number in numbers]
        keys = key_array([f"{number:05d}" for number in numbers])
        rows = {"index": pa.array(range(len(numbers)), pa.int32()), "key": keys, "mask": pa.array(content, pa.binary())}
        write_annotation(pool.store, shard, masks, pa.table(rows))
    blocks = pool.read_epoch(pool.plan("keep", "masks"))
    reasons = np.concatenate([block[columns.SKIP_REASON] for block in blocks]).tolist()
    assert [columns.SKIP_REASONS[code] for code in reasons if code] == ["annotation_undecodable"]
    for block in blocks:
        assert block["masks.mask"].shape == (BLOCK, SIZE, SIZE)
        for mask, number in zip(block["masks.mask"], numbers_of(block), strict=True):
            assert set(mask.flat) == {number}


def mask_of(number: int) -> bytes:
    """A mask that is all ``number``; sample 7 has none that decodes."""
    return encode_dense(np.full((8, 12), number), AnnotationColumn("mask", "mask")) if number != 7 else b"no image"


def test_held_out_rows_have_their_annotations(pool: Pool) -> None:
    pool.annotate()
    for missing, wanted in (("keep", set(range(150))), ("skip", set(range(150)) - LACKING)):
        rows = list(read_evaluation_rows(pool.store, pool.index, SIZE, annotations=(pool.plan(missing),)))
        assert {row.index for row in rows} == wanted
        for row in rows:
            assert ("things.present" in row.annotations) == (row.index not in LACKING)
            assert row.annotations.get("things.score", row.index) == row.index
