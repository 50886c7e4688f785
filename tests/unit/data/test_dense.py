"""Depth, normals and masks go where their image goes: against closed forms, and against the image itself."""

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.annotation_header import AnnotationColumn
from orchestrator.data.crop import Crop
from orchestrator.data.dense import NORMAL_ONE, encode_dense, sample_dense
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image
from orchestrator.data.sample import BadSampleError
from orchestrator.errors import AnnotationError
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.job import ShardsSpec

DEPTH = AnnotationColumn("depth", "depth", scale=0.001)
NORMALS = AnnotationColumn("normals", "normals")
MASK = AnnotationColumn("mask", "mask")
MAX_PIXELS = 10**7


def sample(values: np.ndarray, column: AnnotationColumn, crop: Crop, size: int) -> np.ndarray:
    return sample_dense(encode_dense(values, column), column, crop, size, MAX_PIXELS)


@pytest.mark.parametrize("resolution", [(50, 40), (100, 80), (25, 20)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_slope_of_depth_is_read_at_the_centres_of_the_crop_at_any_resolution(
    resolution: tuple[int, int], flipped: bool
) -> None:
    """Of an image of 50 x 40; a plane is interpolated exactly, to half a millimetre of storage and float16."""
    width, height = resolution
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    depth = sample(30 + 2 * x + 5 * y, DEPTH, Crop(50, 40, 7, 3, 31, 33, flipped), 16)
    share = (np.arange(16) + 0.5) / 16
    wanted_x = (7 + 24 * (1 - share if flipped else share)) / 50
    wanted = 30 + 2 * wanted_x[None, :] + 5 * ((3 + 30 * share) / 40)[:, None]
    assert (depth.dtype, depth.shape) == (np.float16, (16, 16))
    assert np.abs(depth.astype(float) - wanted).max() < 0.02


def test_depth_is_no_mean_over_an_edge_and_unknown_has_no_say() -> None:
    values = np.full((40, 40), 2.0)
    values[:, 20:] = 8.0
    values[10:20] = 0.0
    depth = sample(values, DEPTH, Crop(40, 40, 1, 1, 38, 38), 64)
    assert set(np.unique(depth.astype(float))) == {0.0, 2.0, 8.0}
    assert (depth == 0).mean() == pytest.approx(10 / 37, abs=0.03)


def test_normals_are_unit_or_zero_and_change_sides_on_a_flip() -> None:
    direction = np.array([0.6, -0.64, -0.48])
    values = np.tile(direction, (32, 32, 1))
    values[:16] = 0
    values[16:, 24:] = [0, 0, -1]
    plain, mirrored = (sample(values, NORMALS, Crop(32, 32, 0, 0, 32, 32, flipped), 48) for flipped in (False, True))
    assert (plain.dtype, plain.shape) == (np.int8, (48, 48, 3))
    assert np.array_equal(mirrored[..., 0], -plain[:, ::-1, 0])
    assert np.array_equal(mirrored[..., 1:], plain[:, ::-1, 1:])
    assert np.abs(plain[30, 5] / NORMAL_ONE - direction).max() < 0.012
    length = np.linalg.norm(plain.astype(float), axis=2) / NORMAL_ONE
    assert not length[:24].any()
    assert np.abs(length[24:] - 1).max() < 0.015


def test_normals_of_a_sphere_are_interpolated_along_it() -> None:
    """From 33 x 33 to 100 x 100 they are within two degrees of the closed form, where the nearest one would not be."""
    column, row = np.meshgrid(*(2 * [(np.arange(33) + 0.5) / 33 - 0.5]))
    values = np.stack([column, row, -np.sqrt(1 - column**2 - row**2)], axis=2)
    found = sample(values, NORMALS, Crop(33, 33, 4, 4, 29, 29), 100).astype(float)
    x, y = np.meshgrid(*(2 * [(4 + 25 * (np.arange(100) + 0.5) / 100) / 33 - 0.5]))
    wanted = np.stack([x, y, -np.sqrt(1 - x**2 - y**2)], axis=2)
    cosine = (found * wanted).sum(axis=2) / np.linalg.norm(found, axis=2)
    assert np.degrees(np.arccos(cosine.min())) < 2


@pytest.mark.parametrize("decode", ["fast", "exact"])
def test_a_mask_and_its_image_show_the_same(decode: str) -> None:
    """The image is the mask in grey, as a JPEG that is read at half or a quarter: they differ at edges alone."""
    labels = np.zeros((611, 803), np.uint8)
    rng = np.random.default_rng(0)
    for label in range(1, 5):
        left, top = rng.integers(0, 500), rng.integers(0, 350)
        labels[top : top + 250, left : left + 300] = label
    buffer = io.BytesIO()
    Image.fromarray(labels * 60).save(buffer, "JPEG", quality=95)
    augmentation = AugmentationSpec(crop_scale=(0.3, 1.0), flip=True)
    shards = ShardsSpec.model_validate({"kind": "shards", "train": "x", "decode": decode, "augmentation": augmentation})
    flips = set()
    for index in range(12):
        pixels, crop = augment_image(buffer.getvalue(), shards, 96, SampleDraw(0, 0, 0, 0, index))
        mask = sample(labels, MASK, crop, 96)
        inside = np.ones((94, 94), bool)
        for down in (0, 1, 2):
            for right in (0, 1, 2):
                inside &= mask[down : 94 + down, right : 94 + right] == mask[1:-1, 1:-1]
        grey = pixels[1:-1, 1:-1, 0].astype(float)
        assert inside.mean() > 0.7
        assert np.array_equal(np.rint(grey / 60)[inside], mask[1:-1, 1:-1][inside])
        flips.add(crop.flipped)
    assert flips == {False, True}


@pytest.mark.parametrize("column", [DEPTH, NORMALS, MASK], ids=lambda column: column.kind)
def test_what_is_no_image_of_the_kind_has_a_reason(column: AnnotationColumn) -> None:
    others = {"depth": MASK, "normals": DEPTH, "mask": NORMALS}
    wrong = others[column.kind]
    values = np.zeros((4, 4, 3)) if wrong.kind == "normals" else np.zeros((4, 4))
    whole = encode_dense(values, wrong)
    for data in (b"", b"text", whole[:40], whole):
        with pytest.raises(BadSampleError, match="annotation_undecodable"):
            sample_dense(data, column, Crop(4, 4, 0, 0, 4, 4), 8, MAX_PIXELS)


def test_a_bomb_is_refused_by_its_header() -> None:
    data = encode_dense(np.zeros((40, 50)), MASK)
    with pytest.raises(BadSampleError, match="annotation_undecodable"):
        sample_dense(data, MASK, Crop(50, 40, 0, 0, 50, 40), 8, 40 * 50 - 1)


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        (-1.0, DEPTH, "choose another scale"),
        (66.0, DEPTH, "choose another scale"),
        (np.nan, DEPTH, "choose another scale"),
        (256, MASK, "wanted 0 to 255"),
    ],
)
def test_what_does_not_fit_is_not_written(value: float, column: AnnotationColumn, said: str) -> None:
    with pytest.raises(AnnotationError, match=said):
        encode_dense(np.full((2, 2), value), column)


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0, 1e-9])
def test_scales_that_float16_does_not_hold_are_refused(scale: float) -> None:
    with pytest.raises(AnnotationError, match="keeps its digits"):
        AnnotationColumn("depth", "depth", scale=scale)


def test_the_greatest_depth_is_finite() -> None:
    column = AnnotationColumn("depth", "depth", scale=1.0)
    depth = sample(np.full((4, 4), 65_504.0), column, Crop(4, 4, 0, 0, 4, 4), 8)
    assert depth.tolist() == [[65_504.0] * 8] * 8
