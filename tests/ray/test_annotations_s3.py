"""Annotations beside shards in a bucket: joined where the shards are read, by ranged reads of a real server."""

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from orchestrator import columns
from orchestrator.data.annotation_header import Annotation, AnnotationColumn, Maker
from orchestrator.data.annotations import write_annotation
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.dense import encode_dense
from orchestrator.data.index import DatasetIndex, save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.metadata import key_array
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.errors import AnnotationError
from orchestrator.runs.annotations import read_annotation_facts
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.batches import Batches
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store, open_store

if TYPE_CHECKING:
    from tests.conftest import S3Server

SIZES, BLOCK, SIZE = (100, 60), 20, 8
MASK = AnnotationColumn("mask", "mask")
THINGS = Annotation(
    "things", (AnnotationColumn("score", "number"), MASK), Maker("tests", "1", "abc", "orchestrator label tests JOB")
)


def write_shard(path: Path, size: int, caption: str = "a thing") -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(size):
            image = io.BytesIO()
            Image.new("RGB", (12, 8), (number, 0, 0)).save(image, "PNG")
            for extension, data in (("png", image.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:05d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def annotate(store: Store, index: DatasetIndex) -> None:
    """Every sample but each seventh carries its number, as a score and all over a mask."""
    for shard in index.shards:
        numbers = [number for number in range(shard.num_samples) if number % 7]
        rows = {
            "index": pa.array(numbers, pa.int32()),
            "key": key_array([f"{number:05d}" for number in numbers]),
            "score": pa.array(numbers, pa.float32()),
            "mask": pa.array([encode_dense(np.full((8, 12), number), MASK) for number in numbers], pa.binary()),
        }
        write_annotation(store, shard, THINGS, pa.table(rows))


def make_plan(store: Store, index: DatasetIndex) -> AnnotationPlan:
    facts = read_annotation_facts(store, index, {"things": "things"})["things"]
    return AnnotationPlan(
        name="things", folder="things", columns=facts.columns, missing="keep", digests=(facts.digest,)
    )


def read_epoch(store: Store, index: DatasetIndex, plan: AnnotationPlan) -> list[dict[str, Any]]:
    """All blocks, as the read tasks of a run make them."""
    order = SampleOrder(
        [DatasetOrder(ChunkTable(index.shards.num_samples), 0)], WindowShuffle(BLOCK, 0, Batches(global_size=BLOCK))
    )
    reader = ShardsBlockReader(
        (ShardsSource.now(store, index.digest),),
        ShardsSpec(kind="shards", train="x"),
        order.shuffle,
        BlockLayout(Batches(global_size=BLOCK), BLOCK, 1),
        BlockFormat((columns.IMAGE,), SIZE, 8, 4, None, None, (plan,)),
    )
    task = BlockTask(tuple(range(sum(SIZES) // BLOCK)), order.window_visits(0, sum(SIZES)))
    return [unpack_block(block, SIZE) for block in reader.read_blocks(task)]


def test_annotations_are_joined_in_a_bucket_as_on_disk_and_refused_for_other_shards(
    s3_server: "S3Server", tmp_path: Path
) -> None:
    here = open_store(str(tmp_path))
    there = open_store(f"{s3_server.uri}/annotated", S3Spec(endpoint=s3_server.endpoint))
    for number, size in enumerate(SIZES):
        write_shard(tmp_path / f"{number}.tar", size)
        there.upload(tmp_path / f"{number}.tar", f"{number}.tar")
    blocks = []
    for store in (here, there):
        index = index_dataset(store)
        save_index(store, index)
        annotate(store, index)
        blocks.append(read_epoch(store, index, make_plan(store, index)))
    for on_disk, in_bucket in zip(*blocks, strict=True):
        assert on_disk.keys() == in_bucket.keys()
        for name, values in in_bucket.items():
            np.testing.assert_array_equal(values, on_disk[name])
        number = in_bucket[columns.INDEX]
        assert np.array_equal(in_bucket["things.present"], number % 7 > 0)
        assert np.array_equal(in_bucket["things.score"], np.where(number % 7, number, np.nan), equal_nan=True)
        assert np.array_equal(in_bucket["things.mask"][:, 0, 0], np.where(number % 7, number, 0))

    write_shard(tmp_path / "1.tar", SIZES[1], "others!")  # of as many bytes
    there.upload(tmp_path / "1.tar", "1.tar")
    with pytest.raises(AnnotationError, match=r"things/1\.parquet was made for another version of 1\.tar"):
        make_plan(there, index_dataset(there))
