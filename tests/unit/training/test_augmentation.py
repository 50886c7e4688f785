"""Colour operations against what they should do to known images, and Pillow's where Pillow has them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from orchestrator.data.draw import BlockDraws
from orchestrator.spec.augmentation import AugmentationSpec, ColorJitterSpec, RandAugmentSpec
from orchestrator.training import augmentation
from orchestrator.training.augmentation import augment_colors

OFF = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "probability": 1}


def draws_of(count: int, first: int = 0) -> BlockDraws:
    block = dict.fromkeys(("epoch", "dataset", "shard"), np.zeros(count, np.int32))
    return BlockDraws.of_block(0, {**block, "index": np.arange(first, first + count, dtype=np.int32)})


def images(count: int = 6) -> torch.Tensor:
    """Smooth enough to have structure, with every kind of colour."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    resized = [np.asarray(Image.fromarray(one).resize((24, 24), Image.Resampling.BICUBIC)) for one in coarse]
    return torch.from_numpy(np.stack(resized))


def jitter(**options: float) -> AugmentationSpec:
    return AugmentationSpec(color_jitter=ColorJitterSpec(**{**OFF, **options}))


ALL = AugmentationSpec(color_jitter=ColorJitterSpec(), grayscale=0.3, rand_augment=RandAugmentSpec(num_operations=3))


def test_nothing_asked_for_is_nothing_done():
    batch = images()
    assert augment_colors(batch, AugmentationSpec(), draws_of(6)) is batch
    assert torch.equal(augment_colors(batch, jitter(), draws_of(6)), batch)
    assert torch.equal(augment_colors(batch, jitter(brightness=1, probability=0), draws_of(6)), batch)


def test_a_sample_gets_the_same_in_whatever_batch_it_comes():
    batch = images()
    whole = augment_colors(batch, ALL, draws_of(6))
    parts = [augment_colors(batch[i : i + 2], ALL, draws_of(2, first=i)) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, batch)
    assert not torch.equal(augment_colors(batch, ALL, draws_of(6, first=6)), whole)


def test_brightness_is_uniform_about_one():
    gray = torch.full((400, 2, 2, 3), 100, dtype=torch.uint8)
    values = augment_colors(gray, jitter(brightness=0.5), draws_of(400))[:, 0, 0, 0].float()
    assert values.min() >= 50
    assert values.max() <= 150
    assert values.mean().item() == pytest.approx(100, abs=4)
    assert values.std().item() == pytest.approx(100 / 12**0.5, abs=3)


def test_contrast_and_saturation_leave_a_gray_image_and_hue_any_gray_as_it_is():
    gray = torch.full((5, 3, 3, 3), 77, dtype=torch.uint8)
    assert torch.equal(augment_colors(gray, jitter(contrast=1, saturation=1, hue=0.5), draws_of(5)), gray)


def test_a_turned_hue_keeps_the_lightness_and_changes_the_color():
    mild = torch.tensor([140, 120, 100], dtype=torch.uint8).expand(50, 2, 2, 3).contiguous()
    turned = augment_colors(mild, jitter(hue=0.5), draws_of(50)).float()
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(turned @ luma, mild.float() @ luma, atol=1.5)
    assert (turned - mild.float()).abs().amax() > 15


def test_a_share_of_the_images_loses_its_color():
    batch = images(1).expand(300, -1, -1, -1).contiguous()
    changed = augment_colors(batch, AugmentationSpec(grayscale=0.25), draws_of(300))
    is_gray = (changed == changed[..., :1]).all(dim=3).flatten(1).all(dim=1)
    assert is_gray.float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(changed[~is_gray], batch[~is_gray])


PILLOW = {
    "_brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.45),
    "_color": lambda image: ImageEnhance.Color(image).enhance(1.45),
    "_contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.45),
    "_posterize": lambda image: ImageOps.posterize(image, 6),
    "_solarize": lambda image: ImageOps.solarize(image, 128),
    "_autocontrast": ImageOps.autocontrast,
}


@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_is_pillows(name):
    batch = images()
    signs = torch.ones(6, 1, 1, 1)
    ours = getattr(augmentation, name)(batch.float(), signs, 0.5).round()
    theirs = [np.asarray(PILLOW[name](Image.fromarray(one.numpy()))) for one in batch]
    assert (ours - torch.from_numpy(np.stack(theirs)).float()).abs().max() <= 1.5


def test_sharpness_is_pillows_within_the_border():
    batch = images()
    ours = augmentation._sharpness(batch.float(), torch.ones(6, 1, 1, 1), 0.5).round()
    theirs = [np.asarray(ImageEnhance.Sharpness(Image.fromarray(one.numpy())).enhance(1.45)) for one in batch]
    assert (ours - torch.from_numpy(np.stack(theirs)).float())[:, 1:-1, 1:-1].abs().max() <= 1.5


def test_equalized_levels_fill_their_range_in_their_order():
    batch = images()
    flat = augmentation._equalize(batch.float(), torch.ones(6, 1, 1, 1), 1.0).flatten(1, 2)
    assert torch.all(flat.amin(dim=1) == 0)
    assert torch.all(flat.amax(dim=1).round() == 255)
    order = batch.flatten(1, 2)[0, :, 0].argsort(stable=True)
    assert torch.all(flat[0, :, 0][order].diff() >= 0)
    constant = torch.full((1, 4, 4, 3), 9.0)
    assert torch.equal(augmentation._equalize(constant, torch.ones(1, 1, 1, 1), 1.0), constant)
