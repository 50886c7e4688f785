"""A batch's patches: as many for every image, its own, and the same for a sample wherever it is trained."""

import numpy as np
import pytest

from orchestrator.data.draw import BlockDraws, SampleDraw
from orchestrator.training.batches import choose_patches


def provenance(index: np.ndarray) -> dict[str, np.ndarray]:
    columns = {
        name: np.full(len(index), value, np.int32) for name, value in (("epoch", 2), ("dataset", 1), ("shard", 9))
    }
    return {**columns, "index": index.astype(np.int32)}


def test_a_block_draws_what_its_samples_draw():
    draws = BlockDraws.of_block(7, provenance(np.array([3, 40_000])))
    uniform = draws.uniform("crop", 3)
    for row, index in enumerate((3, 40_000)):
        sample = SampleDraw(7, 2, 1, 9, index)
        assert uniform[row].tolist() == [sample.uniform("crop", attempt) for attempt in range(3)]


@pytest.mark.parametrize(("dropout", "kept"), [(0.0, 196), (0.5, 98), (0.9, 20), (0.999, 1)])
def test_every_image_keeps_as_many_patches_each_once(dropout, kept):
    patches = choose_patches(BlockDraws.of_block(0, provenance(np.arange(64))), 196, dropout)
    assert patches.shape == (64, kept)
    assert (np.diff(patches, axis=1) > 0).all()
    assert ((patches >= 0) & (patches < 196)).all()


def test_patches_differ_between_images_and_are_kept_equally_often():
    patches = choose_patches(BlockDraws.of_block(0, provenance(np.arange(2000))), 16, 0.5)
    counts = np.bincount(patches.ravel(), minlength=16) / 2000
    assert np.abs(counts - 0.5).max() < 0.05
    assert len({tuple(row) for row in patches.tolist()}) > 1000


def test_a_sample_keeps_the_same_patches_in_another_batch():
    index = np.arange(12)
    whole = choose_patches(BlockDraws.of_block(0, provenance(index)), 16, 0.5)
    halves = [choose_patches(BlockDraws.of_block(0, provenance(part)), 16, 0.5) for part in (index[:6], index[6:])]
    assert np.array_equal(whole, np.concatenate(halves))
