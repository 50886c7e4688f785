"""Which of a sample's captions is used, and what can be wrong with them."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, cycle, islice
from types import MappingProxyType

from orchestrator.data.draw import SampleDraw
from orchestrator.data.sample import BadSampleError, RawSample

# Control characters but tab and line ends, and what decoders write for bytes that they could not read.
_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")


def draw_captions(
    sample: RawSample,
    caption_fields: Sequence[str],
    draw: SampleDraw,
    weights: Mapping[str, float] = MappingProxyType({}),
    count: int = 1,
) -> tuple[tuple[str, str], ...]:
    """Field and text of ``count`` captions that are there and not blank, without white space around; no field twice.

    Where there are fewer, those that were drawn are repeated in their order.

    Args:
        weights: how often a field is drawn relative to the others that are left; 1 where it is not named.

    Raises BadSampleError: ``caption_missing`` when there is none, ``caption_undecodable`` when one that was drawn is
    not UTF-8, ``caption_broken`` when it has control characters or what an earlier decoding left.
    """
    left = {field: data for field in caption_fields if (data := sample.members.get(field, b"").strip())}
    drawn: list[tuple[str, bytes]] = []
    while len(drawn) < count:
        sums = list(accumulate(weights.get(field, 1.0) for field in left))
        if not left or sums[-1] == 0:
            break
        field = list(left)[bisect_right(sums, draw.uniform("caption", attempt=len(drawn)) * sums[-1])]
        drawn.append((field, left.pop(field)))
    if not drawn:
        raise BadSampleError("caption_missing")
    try:
        captions = [(field, data.decode("utf-8")) for field, data in drawn]
    except UnicodeDecodeError as error:
        raise BadSampleError("caption_undecodable") from error
    if any(_BROKEN.search(text) for _, text in captions):
        raise BadSampleError("caption_broken")
    return tuple(islice(cycle(captions), count))


def read_captions(sample: RawSample, caption_fields: Sequence[str]) -> tuple[dict[str, str], int]:
    """The captions that ``draw_captions`` can draw, by field; and how many are not UTF-8."""
    captions, num_undecodable = {}, 0
    for field in caption_fields:
        if data := sample.members.get(field, b"").strip():
            try:
                captions[field] = data.decode("utf-8")
            except UnicodeDecodeError:
                num_undecodable += 1
    return captions, num_undecodable


def find_caption_faults(sample: RawSample, caption_fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(reason of ``problems.REASONS``, detail) of everything wrong with a sample's captions.

    A blank caption is a fault only where no other field has one: another would be drawn.
    """
    captions = {field: sample.members[field] for field in caption_fields if field in sample.members}
    if not captions:
        yield "caption_missing", f"none of {', '.join(caption_fields)}; it has {', '.join(sample.members) or 'nothing'}"
    elif not any(data.strip() for data in captions.values()):
        yield "caption_empty", ", ".join(f"{field} of {len(data)} bytes" for field, data in captions.items())
    for field, data in captions.items():
        try:
            text = data.strip().decode("utf-8")
        except UnicodeDecodeError as error:
            yield "caption_undecodable", f"{field}: byte {error.start} is not UTF-8 ({error.reason})"
            continue
        if broken := _BROKEN.search(text):
            yield "caption_broken", f"{field}: U+{ord(broken.group()):04X} at character {broken.start()}"
