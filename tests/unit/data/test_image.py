"""Decoding and cropping, judged by their pixels."""

import io
import math
import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from orchestrator.columns import SKIP_REASONS
from orchestrator.data.decode import JpegImage, Uint8Array, decoder_version, open_image
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import augment_image, center_image, crop_box, find_image
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.job import ShardsSpec

MAX_PIXELS = 10**6
LEAST_DB = {"exact": 45.0, "fast": 25.0}
"""Of any kind of image against Pillow's bicubic filter on the same crop of the whole image."""
ORIENTATION = 0x0112
UPRIGHT_TO_STORED = [
    *(Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM),
    *(Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270),
]
"""By EXIF orientation, from 2."""
WHOLE = AugmentationSpec(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))

Decode = Literal["fast", "exact"]


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def draw(index: int = 0) -> SampleDraw:
    return SampleDraw(0, 0, 0, 0, index)


def spec(augmentation: AugmentationSpec | None = None, decode: Decode = "exact") -> ShardsSpec:
    augmentation = augmentation or AugmentationSpec()
    return ShardsSpec(kind="shards", train="x", decode=decode, augmentation=augmentation, max_image_pixels=MAX_PIXELS)


def augment(data: bytes, shards: ShardsSpec, size: int, draw: SampleDraw) -> Uint8Array:
    return augment_image(data, shards, size, draw)[0]


def center(data: bytes, max_pixels: int, size: int) -> Uint8Array:
    return center_image(data, max_pixels, size)[0]


def gradient(width: int, height: int) -> Image.Image:
    """Red rises to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8))


def photograph(width: int = 320, height: int = 240) -> Image.Image:
    """Octaves of noise with amplitudes as photographs have them: detail that a wrong crop or filter would lose."""
    generator, pixels = np.random.default_rng(0), np.full((height, width, 3), 128.0)
    for octave in range(2, 8):
        noise = Image.fromarray(generator.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8))
        pixels += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) - 128) / 1.6**octave
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def oriented(orientation: Any) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def pixels_of(data: bytes, reduction: int = 1, max_pixels: int = MAX_PIXELS) -> Uint8Array:
    return open_image(data, max_pixels).read_pixels(reduction)


def psnr(image: Any, wanted: Any) -> float:
    error = np.square(np.asarray(image, float) - np.asarray(wanted, float)).mean()
    return 10 * math.log10(255**2 / max(error, 1e-9))


def by_pillow(data: bytes, augmentation: AugmentationSpec, size: int) -> Image.Image:
    """What ``augment_image`` should make of ``draw()``, by Pillow alone."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    crop = image.crop(crop_box(image.width, image.height, augmentation, draw()))
    return crop.resize((size, size), Image.Resampling.BICUBIC)


def sixteen_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


KINDS = {
    "jpeg": lambda image: encode(image, "JPEG", quality=90),
    "jpeg 4:4:4": lambda image: encode(image, "JPEG", quality=90, subsampling=0),
    "jpeg rgb": lambda image: encode(image, "JPEG", quality=90, keep_rgb=True),
    "jpeg grey": lambda image: encode(image.convert("L"), "JPEG", quality=90),
    "jpeg cmyk": lambda image: encode(image.convert("CMYK"), "JPEG", quality=90),
    "jpeg progressive": lambda image: encode(image, "JPEG", quality=90, progressive=True),
    "jpeg restarts": lambda image: encode(image, "JPEG", quality=90, restart_marker_rows=1),
    "jpeg turned": lambda image: encode(image, "JPEG", quality=90, exif=oriented(6)),
    "jpeg cmyk turned": lambda image: encode(image.convert("CMYK"), "JPEG", quality=90, exif=oriented(5)),
    "png": lambda image: encode(image, "PNG"),
    "png grey": lambda image: encode(image.convert("L"), "PNG"),
    "png palette": lambda image: encode(image.quantize(64), "PNG"),
    "png alpha": lambda image: encode(with_alpha(image), "PNG"),
    "png 16 bit": lambda image: encode(sixteen_bit(image), "PNG"),
    "png 1 bit": lambda image: encode(image.convert("1"), "PNG"),
    "png turned": lambda image: encode(image, "PNG", exif=oriented(8)),
    "webp": lambda image: encode(image, "WEBP", quality=90),
    "webp alpha": lambda image: encode(with_alpha(image), "WEBP", lossless=True),
    "gif of two": lambda image: encode(
        image.quantize(64), "GIF", save_all=True, append_images=[ImageOps.invert(image).quantize(64)]
    ),
    "bmp": lambda image: encode(image, "BMP"),
}


@pytest.mark.parametrize("decode", ["fast", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_cropped_as_pillow_crops_it(kind: str, decode: Decode) -> None:
    data = KINDS[kind](photograph())
    for scale in ((0.9, 1.0), (0.08, 0.3)):
        augmentation = AugmentationSpec(crop_scale=scale)
        for size in (32, 160):
            pixels = augment(data, spec(augmentation, decode), size, draw())
            assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
            assert psnr(pixels, by_pillow(data, augmentation, size)) >= LEAST_DB[decode]


@pytest.mark.parametrize("decode", ["fast", "exact"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (1, 400), (2000, 2), (3001, 1999)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_tiny_thin_and_huge_images_keep_their_colour(form: str, width: int, height: int, decode: Decode) -> None:
    data = encode(Image.new("RGB", (width, height), (10, 200, 30)), form)
    shards = spec(decode=decode).model_copy(update={"max_image_pixels": 10**7})
    for size in (8, 224):
        for pixels in (augment(data, shards, size, draw()), center(data, 10**7, size)):
            assert pixels.shape == (size, size, 3)
            assert np.abs(pixels.astype(int) - (10, 200, 30)).max() <= 3


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
def test_every_mode_becomes_rgb(mode: str, color: Any, form: str, expected: tuple[int, ...]) -> None:
    pixels = pixels_of(encode(Image.new(mode, (16, 8), color), form))
    assert (pixels.shape, pixels.dtype) == ((8, 16, 3), np.uint8)
    assert np.abs(pixels.astype(int) - expected).max() <= 4


def test_palette_with_transparency_lies_on_white_and_animations_give_their_first_frame() -> None:
    frame = Image.new("P", (8, 8), 1)
    frame.putpalette([0, 0, 0, 10, 20, 30])
    assert tuple(pixels_of(encode(frame, "GIF"))[0, 0]) == (10, 20, 30)
    assert tuple(pixels_of(encode(frame, "PNG", transparency=1))[0, 0]) == (255, 255, 255)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    first = pixels_of(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert tuple(first[0, 0]) in ((254, 0, 0), (255, 0, 0))


@pytest.mark.parametrize("kind", ["jpeg", "jpeg 4:4:4", "jpeg grey", "jpeg progressive", "jpeg rgb"])
def test_plain_jpegs_have_the_pixels_that_pillow_reads(kind: str) -> None:
    data = KINDS[kind](photograph(203, 101))
    assert isinstance(open_image(data, MAX_PIXELS), JpegImage)
    assert np.array_equal(pixels_of(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_jpeg_of_a_sampling_that_simplejpeg_cannot_name_is_read_by_pillow() -> None:
    data = bytearray(encode(Image.new("RGB", (8, 32), (128, 128, 128)), "JPEG", subsampling=0))
    data[data.index(b"\xff\xc0") + 11] = 0x14  # 4:4:1: four rows of brightness for one of colour
    scan = data.index(b"\xff\xda") + 2
    data[scan + int.from_bytes(data[scan : scan + 2], "big") :] = (
        int("001010" * 4 + "0" * 8, 2).to_bytes(4) + b"\xff\xd9"
    )
    assert (pixels_of(bytes(data)) == np.asarray(Image.open(io.BytesIO(data)))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_at_every_reduction(orientation: int) -> None:
    data = encode(photograph(200, 120), "JPEG", exif=oriented(orientation), quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = open_image(data, MAX_PIXELS)
    assert (image.width, image.height) == upright.size
    assert np.array_equal(image.read_pixels(1), upright)
    for reduction in (2, 4, 8):
        assert psnr(image.read_pixels(reduction), upright.reduce(reduction)) > 35


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", oriented(9)])
def test_exif_that_says_nothing_leaves_the_image_as_it_is(exif: Any) -> None:
    for form in ("JPEG", "PNG"):
        data = encode(gradient(40, 20), form, exif=exif)
        assert pixels_of(data).shape == (20, 40, 3)


def test_exif_is_found_behind_other_segments() -> None:
    plain = encode(gradient(40, 20), "JPEG", exif=oriented(6), icc_profile=bytes(3000))
    start = plain.index(b"\xff\xe1")
    stop = start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big")
    comment = b"\xff\xfe" + struct.pack(">H", 4) + b"ab"
    late = plain[:start] + plain[stop:]
    scan = late.index(b"\xff\xdb")
    data = late[:scan] + comment + b"\xff" + plain[start:stop] + late[scan:]  # one 0xff more is padding
    assert pixels_of(data).shape == (40, 20, 3)


JPEG = encode(photograph(), "JPEG", quality=90)
PROGRESSIVE = encode(photograph(), "JPEG", quality=90, progressive=True)
MIDDLE = len(JPEG) // 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"\xff\xd8\xff",
        JPEG[:300],
        JPEG[:MIDDLE],
        JPEG[:-2],
        JPEG[:MIDDLE] + b"\xff\xd9",
        JPEG[:MIDDLE] + JPEG[MIDDLE + 500 :],
        PROGRESSIVE[: len(PROGRESSIVE) // 2],
        PROGRESSIVE[: len(PROGRESSIVE) // 2] + b"\xff\xd9",
        KINDS["jpeg cmyk"](photograph())[:5000],
        KINDS["jpeg turned"](photograph())[:5000],
        encode(gradient(64, 64), "PNG")[:100],
        encode(gradient(64, 64), "WEBP")[:60],
        encode(gradient(64, 64), "PNG")[:40] + bytes(200),
        encode(gradient(8, 8), "TIFF"),  # a decoder that is not needed is not offered
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=[
        *("empty", "text", "bare start", "cut in the header", "cut in the middle", "cut at the end"),
        *("cut and ended", "a hole", "cut progressive", "cut and ended progressive", "cut cmyk", "cut turned"),
        *("cut png", "cut webp", "damaged png", "tiff", "eps"),
    ],
)
@pytest.mark.parametrize("decode", ["fast", "exact"])
def test_what_does_not_decode_has_a_reason(data: bytes, decode: Decode) -> None:
    for read in (lambda: augment(data, spec(decode=decode), 16, draw()), lambda: center(data, 10**6, 16)):
        with pytest.raises(BadSampleError) as caught:
            read()
        assert caught.value.reason == "image_undecodable"
        assert caught.value.reason in SKIP_REASONS


def test_bytes_between_or_behind_what_is_read_are_no_damage() -> None:
    whole = pixels_of(JPEG)
    assert np.array_equal(pixels_of(JPEG + b"trailer"), whole)
    assert np.array_equal(pixels_of(JPEG[:-2] + b"\0\1" * 10 + JPEG[-2:]), whole)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def jpeg_that_claims(width: int, height: int) -> bytes:
    size = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:size] + struct.pack(">HH", height, width) + JPEG[size + 4 :]


def test_a_bomb_is_refused_by_its_header() -> None:
    size = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", b"")
    jpeg = jpeg_that_claims(60_000, 60_000)
    for data, limit in ((png, 10**12), (png, 10**6), (jpeg, 10**9), (JPEG, 320 * 240 - 1)):
        with pytest.raises(BadSampleError, match="image_too_large"):
            center(data, limit, 16)
    assert center(JPEG, 320 * 240, 16).shape == (16, 16, 3)


def jpeg_of_scans(number: int, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan comes again, behind ``between``, until there are ``number``."""
    data = encode(photograph(), "JPEG", progressive=True)
    last, scan = data.rindex(b"\xff\xda"), b"\xff\xda"
    return data[:last] + (between + data[last:-2]) * (number - data.count(scan) + 1) + data[-2:]


@pytest.mark.parametrize("between", [b"", b"\xff\xff", b"\xff\x01", b"\xff\xd0", b"\xff\xfe\0\2"])
def test_a_jpeg_of_many_scans_is_refused_before_any_of_them_is_decoded(between: bytes) -> None:
    assert pixels_of(jpeg_of_scans(32)).shape == (240, 320, 3)
    for number in (33, 200):
        with pytest.raises(BadSampleError, match="image_too_large") as caught:
            open_image(jpeg_of_scans(number, between), MAX_PIXELS)
        assert str(caught.value.__cause__) == f"{number} scans, at most 32"


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive"])
def test_scans_are_those_of_the_image_itself(kind: str) -> None:
    """Not what lies in its segments (a thumbnail) or behind its end (a second image, a film)."""
    data = KINDS[kind](photograph())
    thumbnail = b"\xff\xe2" + struct.pack(">H", 2 + 2 * 100) + b"\xff\xda" * 100
    assert np.array_equal(pixels_of(data[:2] + thumbnail + data[2:] + jpeg_of_scans(200)), pixels_of(data))


def test_a_frame_that_only_a_careless_reader_finds_does_not_hide_scans() -> None:
    """Decoders take marker 0xd0 for one without content, and go on with the very next bytes."""
    many, shown = jpeg_of_scans(200), JPEG[2 : JPEG.index(b"\xff\xda") + 14]
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(shown)) + shown
    disguised = many[:2] + b"\xff\xd0" + struct.pack(">H", 6) + comment + many[2:]
    with pytest.raises(BadSampleError, match="image_too_large"):
        open_image(disguised, MAX_PIXELS)


def test_jpegs_are_read_at_a_fraction_of_their_size() -> None:
    data = encode(gradient(801, 600), "JPEG", quality=95)
    shapes = [pixels_of(data, reduction).shape[:2] for reduction in (1, 2, 4, 8)]
    assert shapes == [(600, 801), (300, 401), (150, 201), (75, 101)]
    turned = encode(gradient(801, 600), "JPEG", quality=95, exif=oriented(8))
    assert pixels_of(turned, 4).shape[:2] == (201, 150)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"exif": oriented(2)}])
@pytest.mark.parametrize("height", [240, 203])
def test_rows_above_the_bottom_do_not_depend_on_what_is_left_out(height: int, options: dict[str, Any]) -> None:
    image = open_image(encode(photograph(320, height), "JPEG", quality=90, **options), MAX_PIXELS)
    for reduction in (1, 2, 4, 8):
        whole = image.read_pixels(reduction)
        for bottom in (1, 64, 95, 96, 97, height - 30, height - 15, height):
            pixels, num_rows = image.read_pixels(reduction, bottom), round(bottom / reduction)
            assert np.array_equal(pixels[:num_rows], whole[:num_rows])
            assert (len(pixels) < len(whole)) == (bottom <= height - 30)


@pytest.mark.parametrize("kind", ["jpeg progressive", "jpeg restarts", "jpeg turned"])
def test_what_is_not_stored_from_top_to_bottom_is_read_whole(kind: str) -> None:
    data = KINDS[kind](photograph())
    assert np.array_equal(open_image(data, MAX_PIXELS).read_pixels(2, 50), pixels_of(data, 2))


def test_damage_behind_what_is_read_goes_unseen_but_a_missing_end_does_not() -> None:
    hole = JPEG[: MIDDLE + 500] + JPEG[MIDDLE + 1000 :]
    assert np.array_equal(open_image(hole, MAX_PIXELS).read_pixels(1, 60)[:60], pixels_of(JPEG)[:60])
    for data, bottom in ((hole, None), (JPEG[: MIDDLE + 500] + JPEG[-2:], 200), (JPEG[:-2], 60), (JPEG[:MIDDLE], 60)):
        with pytest.raises(BadSampleError, match="image_undecodable"):
            open_image(data, MAX_PIXELS).read_pixels(1, bottom)


@pytest.mark.parametrize(
    ("decode", "sizes"), [("exact", (40, 41, 80, 81, 160, 161)), ("fast", (160, 161, 320, 321, 640, 641))]
)
def test_no_more_is_read_than_the_setting_asks_for(
    monkeypatch: pytest.MonkeyPatch, decode: Decode, sizes: tuple[int, ...]
) -> None:
    asked: list[Any] = []
    read = JpegImage.read_pixels
    monkeypatch.setattr(JpegImage, "read_pixels", lambda image, *how: asked.append(how) or read(image, *how))
    data = encode(gradient(640, 640), "JPEG")
    for size, wanted in zip(sizes, (8, 4, 4, 2, 2, 1), strict=True):
        augment(data, spec(WHOLE, decode), size, draw())
        assert asked.pop() == (wanted, 640 if decode == "fast" else None)


def test_both_settings_show_the_same_part() -> None:
    data = encode(gradient(512, 512), "JPEG", quality=95)
    for index in range(20):
        augmentation = AugmentationSpec(crop_scale=(0.1, 1.0), flip=True)
        fast, exact = (augment(data, spec(augmentation, decode), 64, draw(index)) for decode in ("fast", "exact"))
        assert np.abs(fast.astype(int) - exact).max() <= 6
        left, top, right, bottom = crop_box(512, 512, augmentation, draw(index))
        columns = np.sort(exact[:, [0, -1], 0].astype(float).mean(axis=0)) * 512 / 255
        rows = exact[[0, -1], :, 1].astype(float).mean(axis=1) * 512 / 255
        assert np.abs(columns - (left, right)).max() < 12
        assert np.abs(rows - (top, bottom)).max() < 12


@pytest.mark.parametrize("decode", ["fast", "exact"])
def test_pixels_do_not_depend_on_the_call_or_the_threads(decode: Decode) -> None:
    first = augment(JPEG, spec(decode=decode), 100, draw())
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            augment(PROGRESSIVE, spec(decode=decode), 50, draw(1))
            assert np.array_equal(augment(JPEG, spec(decode=decode), 100, draw()), first)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("decode", ["fast", "exact"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_crop_says_where_its_pixels_lie(orientation: int, decode: Decode) -> None:
    """To a seventh of a pixel of the square, however much is left out in reading; colours are coordinates."""
    stored = gradient(803, 611)
    if orientation > 1:
        stored = stored.transpose(UPRIGHT_TO_STORED[orientation - 2])
    data = encode(stored, "JPEG", quality=98, subsampling=0, exif=oriented(orientation))
    for index, size in enumerate((8, 16, 33, 64, 100)):
        augmentation = AugmentationSpec(crop_scale=(0.3, 1.0), flip=True)
        pixels, crop = augment_image(data, spec(augmentation, decode), size, draw(index))
        for axis, centers, borders, length in (
            (0, crop.centers(size)[0], (crop.left, crop.right), crop.width),
            (1, crop.centers(size)[1], (crop.top, crop.bottom), crop.height),
        ):
            found = (pixels[:, :, axis].mean(axis=axis) + 0.5) / 255 * (length - 1) + 0.5  # colours are rounded down
            inside = slice(2, -2)  # beyond, the filter meets the border of the image
            error = np.polyfit(np.arange(size)[inside], (found - centers * length)[inside], 1)
            shifts = np.polyval(error, [0, size]) / ((borders[1] - borders[0]) / size)
            assert np.abs(shifts).max() < 0.15


def test_center_crop_takes_the_middle() -> None:
    pixels = center(encode(gradient(200, 100), "PNG"), MAX_PIXELS, 50)
    assert (pixels.shape, pixels.dtype) == ((50, 50, 3), np.uint8)
    assert abs(int(pixels[25, 0, 0]) - 64) < 5  # a quarter of the way from left
    assert abs(int(pixels[25, -1, 0]) - 191) < 5
    assert pixels[0, 25, 1] < 5
    assert pixels[-1, 25, 1] > 250


def test_the_centre_of_a_large_jpeg_is_as_pillow_makes_it() -> None:
    image = photograph(900, 600)
    data = encode(image, "JPEG", quality=90)
    assert pixels_of(data, 2).shape == (300, 450, 3)
    wanted = Image.open(io.BytesIO(data)).crop((150, 0, 750, 600)).resize((100, 100), Image.Resampling.BICUBIC)
    assert psnr(center(data, MAX_PIXELS, 100), wanted) > 45


def test_crops_are_a_function_of_the_draw() -> None:
    data, shards = encode(gradient(90, 60), "PNG"), spec(AugmentationSpec(crop_scale=(0.08, 1.0), flip=True))
    crops = [augment(data, shards, 32, draw(index)) for index in range(5)]
    again = [augment(data, shards, 32, draw(index)) for index in range(5)]
    assert all(np.array_equal(one, other) for one, other in zip(crops, again, strict=True))
    assert not np.array_equal(crops[0], crops[1])


def test_crops_cover_the_area_the_ratio_and_the_places_that_were_asked_for() -> None:
    augmentation = AugmentationSpec(crop_scale=(0.2, 0.6), crop_ratio=(0.5, 2.0))
    shares, ratios, lefts = [], [], []
    for index in range(1000):
        left, top, right, bottom = crop_box(400, 400, augmentation, draw(index))
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 400
        shares.append((right - left) * (bottom - top) / 400**2)
        ratios.append((right - left) / (bottom - top))
        lefts.append(left / (400 - (right - left)) if right - left < 400 else 0.5)
    assert 0.19 < min(shares) < 0.21
    assert 0.55 < max(shares) < 0.61
    assert 0.49 < min(ratios) < 0.55
    assert 1.8 < max(ratios) < 2.02
    assert abs(np.mean(lefts) - 0.5) < 0.04


def test_half_of_the_images_are_mirrored_if_asked_for_and_none_otherwise() -> None:
    data = encode(gradient(32, 32), "PNG")
    plain = augment(data, spec(WHOLE), 32, draw())
    flipping = spec(WHOLE.model_copy(update={"flip": True}))
    mirrored = 0
    for index in range(400):
        crop = augment(data, flipping, 32, draw(index))
        is_mirrored = bool(crop[0, 0, 0] > crop[0, -1, 0])
        assert np.array_equal(crop, plain[:, ::-1] if is_mirrored else plain)
        mirrored += is_mirrored
    assert 160 < mirrored < 240


def test_a_box_that_never_fits_becomes_the_largest_centred_one() -> None:
    assert crop_box(400, 40, AugmentationSpec(crop_scale=(1, 1)), draw()) == (173, 0, 226, 40)
    assert crop_box(1, 300, AugmentationSpec(crop_ratio=(3, 4)), draw()) == (0, 149, 1, 150)


def test_first_image_field_that_is_there_counts() -> None:
    sample = RawSample(0, "a", {"png": b"1", "webp": b"2"})
    assert find_image(sample, ("jpg", "webp", "png")) == b"2"
    with pytest.raises(BadSampleError, match="image_missing"):
        find_image(sample, ("jpg",))


def test_decoder_version_names_everything_that_makes_pixels() -> None:
    for name in ("pillow ", "libjpeg_turbo ", "webp ", "simplejpeg ", "torch "):
        assert name in decoder_version()
    assert "+" not in decoder_version().rpartition("torch")[2]
