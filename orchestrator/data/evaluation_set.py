"""Reading labelled shards without Ray: each rank takes a run of consecutive rows, each row exactly once over all ranks.

A row's number counts whole samples over all shards in the order of the index, so it is the same at every world
size. A chunk is read whole, by the ranks that have rows in it: W runs cut at most W - 1 chunks, so each is read about
once. Rows with bad content are left out and counted.
Other sets, and what these ask, are in ``labelled``.

Legend: B rows of a batch, H W image.
"""

import dataclasses
import json
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from orchestrator.data.annotation_join import ChunkAnnotations, Values, read_chunk_annotations
from orchestrator.data.image import center_image, find_image
from orchestrator.data.index import DatasetIndex
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.errors import EvaluationError
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import Store

logger = logging.getLogger(__name__)

TARGETS_FIELD = "json"
"""Member or column that holds a row's targets: a JSON object, or one under its key ``targets``."""

Label = str | int | list[str | int]
"""A class, or any number of them."""


@dataclass(frozen=True)
class EvaluationRow:
    """One row of an evaluation set."""

    index: int
    image: npt.NDArray[np.uint8]
    """[H, W, 3], centred."""
    caption: str
    """The first caption; empty where none was asked for."""
    captions: tuple[str, ...]
    """All of them; none where none was asked for."""
    targets: dict[str, Label]
    annotations: Values = dataclasses.field(default_factory=dict)
    """What ``annotation_join`` gave."""


@dataclass(frozen=True)
class EvaluationBatch:
    """Some rows of an evaluation set."""

    index: npt.NDArray[np.int64]
    """[B]"""
    image: npt.NDArray[np.uint8]
    """[B, H, W, 3]"""
    caption: list[str]
    captions: list[tuple[str, ...]]
    targets: dict[str, list[Label]]
    """Target name to the labels of B rows."""


class LeftOutError(BadSampleError):
    """A whole row that is not asked for; ``reason`` is counted, as that of a bad one is."""


@dataclass(frozen=True)
class LabelReader:
    """How rows carry their labels. Picklable, as ``read`` must be."""

    fields: tuple[str, ...]
    """Members or columns that ``read`` wants."""
    read: Callable[[RawSample], Mapping[str, Label]]
    """Labels by target. Raises LeftOutError for a row that is not asked for, ValueError for what is no label."""


def read_evaluation_rows(
    store: Store,
    index: DatasetIndex,
    image_size: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    image_fields: Sequence[str] = ShardsSpec.model_fields["image_fields"].default,
    caption_fields: Sequence[str] = (),
    all_caption_fields: Sequence[str] = (),
    max_image_pixels: int = ShardsSpec.model_fields["max_image_pixels"].default,
    max_samples: int | None = None,
    only: Collection[int] | None = None,
    skipped: Counter[str] | None = None,
    annotations: Sequence[AnnotationPlan] = (),
    labels: LabelReader | None = None,
    spread: bool = False,
    run_length: int | None = None,
) -> Iterator[EvaluationRow]:
    """This rank's rows among the first ``max_samples`` of the set.

    Args:
        caption_fields: none: no caption is read, and none is missed.
        all_caption_fields: where ``captions`` are, one a line; a row may have none.
        only: numbers of rows to read, and no chunk without one of them; none: all rows.
        skipped: counts the rows that were left out, by reason (``columns.SKIP_REASONS``).
        annotations: what is joined to the rows, as planned for the held-out shards.
        labels: none: those of the rows' JSON.
        spread: take ``max_samples`` rows in even distances instead of the first.
        run_length: as in ``own_numbers``.

    Raises:
        AnnotationError: an annotation was made for another version of a shard, or by another maker than planned.
        ShardReadError, ShardDamagedError: a shard does not give what its index says.
        EvaluationError: a row whose labels do not read.
    """
    counts = Counter[str]() if skipped is None else skipped
    labels = labels or JSON_LABELS
    fields = {*image_fields, *caption_fields, *all_caption_fields, *labels.fields}
    own = own_numbers(index.num_samples, max_samples, rank, world_size, spread, run_length)
    if only is not None:
        own = [number for number in own if number in only]
    for number, sample, joined in _own_samples(store, index, fields, own, annotations):
        try:
            sample.require_members()
            joined.check_presence(sample)
            targets = _read_labels(store, number, sample, labels)
            image, crop = center_image(find_image(sample, image_fields), max_image_pixels, image_size)
            caption = _first_caption(sample, caption_fields)
            captions = _all_captions(sample, all_caption_fields)
            values = joined.values(sample, crop, image_size, max_image_pixels)
        except BadSampleError as error:
            counts[error.reason] += 1
            continue
        yield EvaluationRow(number, image, caption, captions, dict(targets), values)
    say_left_out(store, counts)


def stack_rows(rows: Iterator[EvaluationRow], batch_size: int, where: str) -> Iterator[EvaluationBatch]:
    """Rows of ``where`` in batches; the last may be short.

    Raises EvaluationError when rows of one batch carry different targets.
    """
    while batch := list(islice(rows, batch_size)):
        yield _to_batch(where, batch)


def own_numbers(
    num_rows: int,
    max_samples: int | None,
    rank: int,
    world_size: int,
    spread: bool = False,
    run_length: int | None = None,
) -> list[int]:
    """The rows that a rank takes of the first ``max_samples``, or of as many evenly spaced; ascending.

    Args:
        run_length: rows that go to one rank before the next has its turn; none: a rank has one turn.
    """
    num_taken = num_rows if max_samples is None else min(max_samples, num_rows)
    length = run_length or -(-num_taken // world_size) or 1
    starts = range(rank * length, num_taken, world_size * length)
    taken = [place for start in starts for place in range(start, min(start + length, num_taken))]
    return [place * num_rows // num_taken for place in taken] if spread else taken


def say_left_out(store: Store, counts: Counter[str]) -> None:
    """Tell what a rank did not judge."""
    if counts:
        logger.warning("%s: %d rows left out: %s", store.uri, counts.total(), dict(counts))


def _own_samples(
    store: Store,
    index: DatasetIndex,
    fields: set[str],
    own: Sequence[int],
    annotations: Sequence[AnnotationPlan],
) -> Iterator[tuple[int, RawSample, ChunkAnnotations]]:
    """(row number, sample, annotations of its chunk) of the rows ``own``, chunk by chunk."""
    first, taken = 0, 0
    digests = [annotation.heldout for annotation in annotations]
    for shard in index.shards:
        for chunk in range(shard.num_chunks):
            low, high = (first + position for position in shard.chunk_range(chunk))
            stop = bisect_left(own, high, taken)
            if stop > taken:
                samples = read_chunk(store, shard, chunk, fields)
                joined = read_chunk_annotations(store, shard, chunk, annotations, digests)
                yield from ((number, samples[number - low], joined) for number in own[taken:stop])
            taken = stop
        first += shard.num_samples


def _first_caption(sample: RawSample, caption_fields: Iterable[str]) -> str:
    for field in caption_fields:
        if data := sample.members.get(field, b"").strip():
            return _decode_caption(data)
    if caption_fields:
        raise BadSampleError("caption_missing")
    return ""


def _all_captions(sample: RawSample, fields: Iterable[str]) -> tuple[str, ...]:
    lines = (line for field in fields for line in _decode_caption(sample.members.get(field, b"")).splitlines())
    return tuple(line.strip() for line in lines if line.strip())


def _decode_caption(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadSampleError("caption_undecodable") from error


def _read_labels(store: Store, number: int, sample: RawSample, labels: LabelReader) -> Mapping[str, Label]:
    try:
        return labels.read(sample)
    except (ValueError, AttributeError, RecursionError) as error:
        field = ", ".join(f".{field}" for field in labels.fields)
        raise EvaluationError(
            f"{store.uri}, row {number} ({sample.key}): its {field} does not read as labels: {error}"
        ) from error


def read_json_labels(sample: RawSample) -> dict[str, Label]:
    """Labels in a row's JSON; what is neither text nor whole number, nor a list of these, is no label."""
    if TARGETS_FIELD not in sample.members:
        return {}
    content = json.loads(sample.members[TARGETS_FIELD])
    labels = content.get("targets", content)
    return {name: value for name, value in labels.items() if _is_label(value)}


JSON_LABELS = LabelReader((TARGETS_FIELD,), read_json_labels)


def _is_label(value: object) -> bool:
    return all(isinstance(one, str | int) for one in (value if isinstance(value, list) else [value]))


def _to_batch(where: str, rows: list[EvaluationRow]) -> EvaluationBatch:
    names = rows[0].targets.keys()
    for row in rows:
        if row.targets.keys() != names:
            raise EvaluationError(
                f"{where}: row {row.index} carries targets {sorted(row.targets)}, row {rows[0].index} "
                f"{sorted(names)}; every row must carry the same"
            )
    return EvaluationBatch(
        np.array([row.index for row in rows], np.int64),
        np.stack([row.image for row in rows]),
        [row.caption for row in rows],
        [row.captions for row in rows],
        {name: [row.targets[name] for row in rows] for name in names},
    )
