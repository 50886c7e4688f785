"""Decoding and cropping, judged by their pixels."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.columns import SKIP_REASONS
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import (
    augment_image,
    decode_image,
    decoder_version,
    find_image,
    least_side,
    resize_center,
)
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.spec.job import AugmentationSpec

MAX_PIXELS = 10**6


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def draw(index: int = 0) -> SampleDraw:
    return SampleDraw(0, 0, 0, 0, index)


def gradient(width: int, height: int) -> Image.Image:
    """Red rises to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "color", "form", "expected"),
    [
        ("RGB", (200, 100, 50), "PNG", (200, 100, 50)),
        ("RGB", (200, 100, 50), "WEBP", (200, 100, 50)),
        ("RGB", (200, 100, 50), "BMP", (200, 100, 50)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("L", 77, "JPEG", (77, 77, 77)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("RGBA", (200, 100, 50, 0), "PNG", (255, 255, 255)),
        ("RGBA", (200, 100, 50, 255), "PNG", (200, 100, 50)),
        ("LA", (0, 128), "PNG", (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
        ("I;16", 128 * 256, "PNG", (128, 128, 128)),
    ],
)
def test_every_kind_of_image_becomes_rgb(mode: str, color: Any, form: str, expected: tuple[int, ...]) -> None:
    image = decode_image(encode(Image.new(mode, (16, 8), color), form), MAX_PIXELS)
    assert (image.mode, image.size) == ("RGB", (16, 8))
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 4


def test_palette_with_transparency_lies_on_white_and_animations_give_their_first_frame() -> None:
    frame = Image.new("P", (8, 8), 1)
    frame.putpalette([0, 0, 0, 10, 20, 30])
    opaque = decode_image(encode(frame, "GIF"), MAX_PIXELS)
    assert opaque.getpixel((0, 0)) == (10, 20, 30)
    clear = decode_image(encode(frame, "PNG", transparency=1), MAX_PIXELS)
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    first = decode_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), MAX_PIXELS)
    assert first.getpixel((0, 0)) == (254, 0, 0) or first.getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn
    image = decode_image(encode(gradient(40, 20), "JPEG", exif=exif, quality=95), MAX_PIXELS)
    assert image.size == (20, 40)
    top, bottom = image.getpixel((10, 2)), image.getpixel((10, 37))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] < 30
    assert bottom[0] > 220


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        encode(gradient(64, 64), "JPEG")[:300],
        encode(gradient(64, 64), "PNG")[:100],
        encode(gradient(64, 64), "WEBP")[:60],
        encode(gradient(64, 64), "PNG")[:40] + bytes(200),
        encode(gradient(8, 8), "TIFF"),  # a decoder that is not needed is not offered
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "cut webp", "damaged png", "tiff", "eps"],
)
def test_what_does_not_decode_has_a_reason(data: bytes) -> None:
    with pytest.raises(BadSampleError) as caught:
        decode_image(data, MAX_PIXELS)
    assert caught.value.reason == "image_undecodable"
    assert caught.value.reason in SKIP_REASONS


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_a_bomb_is_refused_by_its_header() -> None:
    size = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", b"")
    for data, limit in ((bomb, 10**12), (bomb, 10**6), (encode(gradient(20, 20), "PNG"), 399)):
        with pytest.raises(BadSampleError, match="image_too_large"):
            decode_image(data, limit)
    assert decode_image(encode(gradient(20, 20), "PNG"), 400).size == (20, 20)


def test_large_jpegs_are_reduced_but_never_below_what_crops_need() -> None:
    data = encode(gradient(800, 600), "JPEG", quality=95)
    assert decode_image(data, MAX_PIXELS).size == (800, 600)
    assert decode_image(data, MAX_PIXELS, min_side=150).size == (200, 150)
    assert decode_image(data, MAX_PIXELS, min_side=301).size == (800, 600)
    reduced = resize_center(decode_image(data, MAX_PIXELS, min_side=128), 64).astype(int)
    full = resize_center(decode_image(data, MAX_PIXELS), 64).astype(int)
    assert np.abs(reduced - full).max() <= 6


def test_least_side_leaves_two_pixels_for_one_in_the_smallest_crop() -> None:
    assert least_side(AugmentationSpec(crop_scale=(1, 1), crop_ratio=(1, 1)), 64) == 128
    assert least_side(AugmentationSpec(crop_scale=(0.25, 1), crop_ratio=(1, 1)), 64) == 256


def test_center_crop_takes_the_middle() -> None:
    pixels = resize_center(gradient(200, 100), 50)
    assert (pixels.shape, pixels.dtype) == ((50, 50, 3), np.uint8)
    assert abs(int(pixels[25, 0, 0]) - 64) < 5  # a quarter of the way from left
    assert abs(int(pixels[25, -1, 0]) - 191) < 5
    assert pixels[0, 25, 1] < 5
    assert pixels[-1, 25, 1] > 250


def test_crops_are_a_function_of_the_draw() -> None:
    image, spec = gradient(90, 60), AugmentationSpec(crop_scale=(0.08, 1.0), flip=True)
    crops = [augment_image(image, spec, 32, draw(index)) for index in range(5)]
    again = [augment_image(image, spec, 32, draw(index)) for index in range(5)]
    assert all(np.array_equal(one, other) for one, other in zip(crops, again, strict=True))
    assert not np.array_equal(crops[0], crops[1])
    assert {(crop.shape, crop.dtype.name) for crop in crops} == {((32, 32, 3), "uint8")}


def test_crops_cover_the_area_the_ratio_and_the_places_that_were_asked_for() -> None:
    image, spec = gradient(400, 400), AugmentationSpec(crop_scale=(0.2, 0.6), crop_ratio=(0.5, 2.0))
    shares, ratios, lefts = [], [], []
    for index in range(300):
        crop = augment_image(image, spec, 64, draw(index)).astype(float) / 255
        width = (crop[32, -1, 0] - crop[32, 0, 0]) * 64 / 63  # the gradient tells where the crop was
        height = (crop[-1, 32, 1] - crop[0, 32, 1]) * 64 / 63
        shares.append(width * height)
        ratios.append(width / height)
        if width < 0.8:  # wider ones have no room to tell left from right
            lefts.append(crop[32, 0, 0] / (1 - width))
    assert 0.18 < min(shares) < 0.25
    assert 0.5 < max(shares) < 0.63
    assert 0.47 < min(ratios) < 0.6
    assert 1.7 < max(ratios) < 2.1
    assert abs(np.mean(lefts) - 0.5) < 0.06


def test_half_of_the_images_are_mirrored_if_asked_for_and_none_otherwise() -> None:
    image = gradient(32, 32)
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}

    def mirrored(spec: AugmentationSpec) -> int:
        crops = [augment_image(image, spec, 32, draw(index)) for index in range(400)]
        return sum(bool(crop[0, 0, 0] > crop[0, -1, 0]) for crop in crops)

    assert mirrored(AugmentationSpec(**whole)) == 0
    assert 160 < mirrored(AugmentationSpec(**whole, flip=True)) < 240


def test_a_box_that_never_fits_becomes_the_largest_centred_one() -> None:
    pixels = augment_image(gradient(400, 40), AugmentationSpec(crop_scale=(1, 1)), 16, draw())
    assert abs(int(pixels[8, 8, 0]) - 127) < 12
    assert augment_image(gradient(1, 300), AugmentationSpec(), 8, draw()).shape == (8, 8, 3)


def test_first_image_field_that_is_there_counts() -> None:
    sample = RawSample(0, "a", {"png": b"1", "webp": b"2"})
    assert find_image(sample, ("jpg", "webp", "png")) == b"2"
    with pytest.raises(BadSampleError, match="image_missing"):
        find_image(sample, ("jpg",))


def test_decoder_version_names_the_library() -> None:
    assert decoder_version().startswith("pillow ")
