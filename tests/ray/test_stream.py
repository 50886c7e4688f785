"""Ray deals blocks as the plan says; what arrives is checked; the stream's rows are those of the order."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.actor import ActorHandle
from ray.data import DataIterator

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, SyntheticBlockReader, unpack_block
from orchestrator.data.dataset_order import NO_VISITS
from orchestrator.data.order import BlockLayout
from orchestrator.data.stream import BlockStream, StreamPlace
from orchestrator.data.tokens import CaptionTokenizer, load_tokenizer, train_tokenizer
from orchestrator.errors import ShardReadError, StreamOrderError
from orchestrator.spec.batches import Batches, BatchPhase
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.plan import StreamPlan

pytestmark = pytest.mark.usefixtures("ray_local")

IMAGE_SIZE = 16
MICRO_SIZE = 8
BLOCK_BYTES = MICRO_SIZE * (3 * IMAGE_SIZE**2 + 4 * 8 + 64)


@pytest.fixture(scope="module")
def format(tmp_path_factory: pytest.TempPathFactory) -> BlockFormat:
    return BlockFormat((columns.IMAGE, columns.TOKENS), IMAGE_SIZE, 8, 4, tokenizer(tmp_path_factory), None)


def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CaptionTokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    file.write_bytes(train_tokenizer([f"noise {number}" for number in range(97)], 300))
    return load_tokenizer(file.as_uri(), S3Spec())


def stream_plan(block_bytes: int, tasks_per_execution: int = 1000) -> StreamPlan:
    return StreamPlan(
        block_bytes=block_bytes,
        blocks_per_task=4,
        tasks_per_execution=tasks_per_execution,
        ingest_cpus=2,
        object_store_bytes=64 * 2**20,
        window=64,
        max_concepts_per_row=32,
    )


@ray.remote(num_cpus=0)
class Switchboard:
    """Hands the first rank's iterators of each execution to the others, as the ranks' process group does."""

    def __init__(self) -> None:
        self.executions: list[list[DataIterator]] = []

    def put(self, iterators: list[DataIterator]) -> None:
        self.executions.append(iterators)

    def get(self, number: int) -> list[DataIterator]:
        return self.executions[number] if number < len(self.executions) else []


@ray.remote(num_cpus=1)
class Rank:
    """One rank that only looks at its blocks."""

    def read(
        self, reader: SyntheticBlockReader, plan: StreamPlan, rank: int, board: ActorHandle, steps: tuple[int, int]
    ) -> list[tuple[tuple[int, ...], list[int]]]:
        """Stamp and rows of each block."""
        number = itertools.count()

        def share(built: list[DataIterator] | None) -> list[DataIterator]:
            if built is not None:
                ray.get(board.put.remote(built))
            wanted, found = next(number), list[DataIterator]()
            while not found:
                found = ray.get(board.get.remote(wanted))
            return found

        place = StreamPlace(rank, tuple(range(reader.layout.world_size)))
        stream = BlockStream(reader, None, reader.layout, plan, place, share)
        blocks = [unpack_block(block, IMAGE_SIZE) for block in stream.blocks(*steps)]
        return [
            (tuple(int(block[name][0]) for name in columns.STAMP), block[columns.INDEX].tolist()) for block in blocks
        ]


def read_all(
    format: BlockFormat, world_size: int, batches: Batches, steps: tuple[int, int], tasks_per_execution: int = 1000
) -> dict[int, list[int]]:
    """Rows of each step, from all ranks in the order of the global batch."""
    layout = BlockLayout(batches, MICRO_SIZE, world_size)
    reader = SyntheticBlockReader(num_samples=10_000, seed=0, layout=layout, format=format)
    board = Switchboard.remote()
    ranks = [Rank.remote() for _ in range(world_size)]
    plan = stream_plan(BLOCK_BYTES, tasks_per_execution)
    found = ray.get([rank.read.remote(reader, plan, number, board, steps) for number, rank in enumerate(ranks)])
    blocks = {stamp: rows for of_rank in found for stamp, rows in of_rank}
    ordered = sorted(blocks, key=lambda stamp: (stamp[0], stamp[2], stamp[1]))
    steps_rows: dict[int, list[int]] = {}
    for stamp in ordered:
        steps_rows.setdefault(stamp[0], []).extend(blocks[stamp])
    return steps_rows


def test_global_batches_are_the_same_at_every_world_size_and_after_a_resume(format: BlockFormat) -> None:
    equal = Batches(global_size=4 * MICRO_SIZE)
    whole = read_all(format, world_size=1, batches=equal, steps=(0, 12))
    assert list(whole) == list(range(12))
    assert whole[3] == list(range(96, 128))
    assert read_all(format, world_size=2, batches=equal, steps=(0, 12)) == whole
    resumed = read_all(format, world_size=2, batches=equal, steps=(5, 12))
    assert resumed == {step: rows for step, rows in whole.items() if step >= 5}


def test_a_chain_of_executions_is_one_stream_also_of_steps_that_change_their_size(format: BlockFormat) -> None:
    phases = (BatchPhase(stop_sample=64, global_sizes=(16,)), BatchPhase(stop_sample=600, global_sizes=(16, 32, 64)))
    changing = Batches(global_size=48, phases=phases)
    whole = read_all(format, world_size=1, batches=changing, steps=(1, 24))
    assert {step: len(rows) for step, rows in whole.items()} == {step: changing.size_at(step) for step in range(1, 24)}
    assert [row for rows in whole.values() for row in rows] == list(range(16, changing.start(24)))
    resumed = read_all(format, world_size=2, batches=changing, steps=(6, 24), tasks_per_execution=5)
    assert resumed == {step: rows for step, rows in whole.items() if step >= 6}


def test_the_next_execution_starts_when_its_first_blocks_can_just_be_there_in_time(format: BlockFormat) -> None:
    layout = BlockLayout(Batches(global_size=MICRO_SIZE), MICRO_SIZE, 1)
    reader = SyntheticBlockReader(num_samples=10_000, seed=0, layout=layout, format=format)
    plan = stream_plan(BLOCK_BYTES, tasks_per_execution=64).model_copy(update={"ingest_cpus": 1})
    started_at, num_read = list[int](), 0

    def share(built: list[DataIterator] | None) -> list[DataIterator]:
        started_at.append(num_read)
        assert built is not None
        return built

    for _ in BlockStream(reader, None, layout, plan, StreamPlace(0, (0,)), share).blocks(0, 300):
        num_read += 1
    assert num_read == 300
    tasks_of_window, steps_of_window = 2, 8
    assert started_at == [0, 64 // tasks_of_window * steps_of_window - 8 // tasks_of_window * steps_of_window]


class FailingReader(SyntheticBlockReader):
    """Storage that is gone for good."""

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        raise ShardReadError("s3://bucket/00000.tar: no answer")


def test_what_a_task_meets_is_raised_where_the_blocks_are_used(format: BlockFormat) -> None:
    layout = BlockLayout(Batches(global_size=MICRO_SIZE), MICRO_SIZE, 1)
    reader = FailingReader(1000, 0, layout, format)
    stream = BlockStream(
        reader, None, layout, stream_plan(MICRO_SIZE * 900), StreamPlace(0, (0,)), lambda built: built or []
    )
    with pytest.raises(Exception, match=r"s3://bucket/00000\.tar: no answer"):
        next(stream.blocks(0, 4))


class OutOfTurnReader:
    """Stamps its blocks for the wrong rank, as another way of dealing would."""

    def __init__(self, reader: SyntheticBlockReader) -> None:
        self.reader = reader

    def read_blocks(self, task: BlockTask) -> Iterator[pa.Table]:
        yield from self.reader.read_blocks(replace(task, blocks=tuple(block + 1 for block in task.blocks)))


def test_a_block_that_the_plan_does_not_name_stops_the_stream(format: BlockFormat) -> None:
    layout = BlockLayout(Batches(global_size=MICRO_SIZE), MICRO_SIZE, 1)
    reader = OutOfTurnReader(SyntheticBlockReader(1000, 0, layout, format))
    stream = BlockStream(
        reader, None, layout, stream_plan(MICRO_SIZE * 900), StreamPlace(0, (0,)), lambda built: built or []
    )
    with pytest.raises(StreamOrderError, match=r"\(1, 0, 0\).*plan has \(0, 0, 0\)"):
        next(stream.blocks(0, 4))


def test_noise_depends_on_the_block_alone(format: BlockFormat) -> None:
    reader = SyntheticBlockReader(1000, 0, BlockLayout(Batches(global_size=MICRO_SIZE), MICRO_SIZE, 1), format)
    one, two = (list(reader.read_blocks(BlockTask((3, 4), NO_VISITS))) for _ in range(2))
    assert all(left.equals(right) for left, right in zip(one, two, strict=True))
    assert not np.array_equal(unpack_block(one[0], IMAGE_SIZE)["image"], unpack_block(one[1], IMAGE_SIZE)["image"])
