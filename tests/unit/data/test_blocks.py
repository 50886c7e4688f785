"""Blocks at the size of their step."""

import pytest

from orchestrator import columns
from orchestrator.data.blocks import BlockFormat, BlockTask, SyntheticBlockReader, unpack_block
from orchestrator.data.dataset_order import NO_VISITS
from orchestrator.data.order import BlockLayout
from orchestrator.spec.batches import Batches
from orchestrator.spec.resolution import ImageSizes, SizePhase


@pytest.mark.parametrize("num_micro", [1, 2])
def test_a_block_has_the_size_of_its_step(num_micro: int) -> None:
    sizes = ImageSizes(final=32, phases=(SizePhase(stop_step=2, image_sizes=(8,)),))
    format = BlockFormat((columns.IMAGE,), 32, 8, 4, None, None, image_sizes=sizes)
    layout = BlockLayout(Batches(global_size=4 * num_micro * 3), 4, 3)
    reader = SyntheticBlockReader(1000, 0, layout, format)
    for block in reader.read_blocks(BlockTask(tuple(range(12 * num_micro)), NO_VISITS)):
        step = block.column(columns.STEP)[0].as_py()
        side = 8 if step < 2 else 32
        assert unpack_block(block, format.size_at(step))[columns.IMAGE].shape == (4, side, side, 3)
