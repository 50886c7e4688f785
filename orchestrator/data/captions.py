"""Which of a sample's captions is used."""

from collections.abc import Sequence

from orchestrator.data.draw import SampleDraw
from orchestrator.data.sample import BadSampleError, RawSample


def choose_caption(sample: RawSample, caption_fields: Sequence[str], draw: SampleDraw) -> str:
    """One of the captions that are there and not blank, without white space around it.

    Raises BadSampleError: ``caption_missing`` when there is none, ``caption_undecodable`` when the one that was
    drawn is not UTF-8.
    """
    captions = [data for field in caption_fields if (data := sample.members.get(field, b"").strip())]
    if not captions:
        raise BadSampleError("caption_missing")
    chosen = captions[draw.integer("caption", len(captions))]
    try:
        return chosen.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadSampleError("caption_undecodable") from error
