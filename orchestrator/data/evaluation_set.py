"""Reading an evaluation set without Ray: rank r of W takes rows r, r + W, ..., each row exactly once over all ranks.

A row's number counts whole samples over all shards in the order of the index, so it is the same at every world
size. Chunks without a row of this rank are not read. Rows with bad content are left out and counted.

Legend: B rows of a batch, H W image.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

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
    annotations: Values
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
    skipped: Counter[str] | None = None,
    annotations: Sequence[AnnotationPlan] = (),
) -> Iterator[EvaluationRow]:
    """This rank's rows among the first ``max_samples`` of the set.

    Args:
        caption_fields: none: no caption is read, and none is missed.
        all_caption_fields: where ``captions`` are, one a line; a row may have none.
        skipped: counts the rows that were left out, by reason (``columns.SKIP_REASONS``).
        annotations: what is joined to the rows, as planned for the held-out shards.

    Raises:
        AnnotationError: an annotation was made for another version of a shard, or by another maker than planned.
        ShardReadError, ShardDamagedError: a shard does not give what its index says.
        EvaluationError: a row whose targets are not a JSON object.
    """
    counts = Counter[str]() if skipped is None else skipped
    fields = {*image_fields, *caption_fields, *all_caption_fields, TARGETS_FIELD}
    for number, sample, joined in _own_samples(store, index, fields, rank, world_size, max_samples, annotations):
        try:
            joined.check_presence(sample)
            image, crop = center_image(find_image(sample, image_fields), max_image_pixels, image_size)
            caption = _first_caption(sample, caption_fields)
            captions = _all_captions(sample, all_caption_fields)
            values = joined.values(sample, crop, image_size, max_image_pixels)
        except BadSampleError as error:
            counts[error.reason] += 1
            continue
        yield EvaluationRow(number, image, caption, captions, _targets(store, number, sample), values)
    if counts:
        logger.warning("%s: %d rows left out: %s", store.uri, counts.total(), dict(counts))


def read_evaluation_batches(
    store: Store,
    index: DatasetIndex,
    image_size: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> Iterator[EvaluationBatch]:
    """The rows of ``read_evaluation_rows``, which takes the ``options``, in batches; the last may be short.

    Raises EvaluationError also when rows of one batch carry different targets.
    """
    rows = read_evaluation_rows(store, index, image_size, rank, world_size, **options)
    while batch := list(islice(rows, batch_size)):
        yield _to_batch(store, batch)


def _own_samples(
    store: Store,
    index: DatasetIndex,
    fields: set[str],
    rank: int,
    world_size: int,
    max_samples: int | None,
    annotations: Sequence[AnnotationPlan],
) -> Iterator[tuple[int, RawSample, ChunkAnnotations]]:
    """(row number, sample, annotations of its chunk) of this rank, chunk by chunk."""
    first = 0
    digests = [annotation.heldout for annotation in annotations]
    stop = index.num_samples if max_samples is None else min(max_samples, index.num_samples)
    for shard in index.shards:
        for chunk in range(shard.num_chunks):
            low, high = (first + position for position in shard.chunk_range(chunk))
            own = range(low + (rank - low) % world_size, min(high, stop), world_size)
            if own:
                samples = read_chunk(store, shard, chunk, fields)
                joined = read_chunk_annotations(store, shard, chunk, annotations, digests)
                yield from ((number, samples[number - low], joined) for number in own)
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


def _targets(store: Store, number: int, sample: RawSample) -> dict[str, Label]:
    """Labels of a row; what is neither text nor whole number, nor a list of these, is no label."""
    if TARGETS_FIELD not in sample.members:
        return {}
    try:
        content = json.loads(sample.members[TARGETS_FIELD])
        labels = content.get("targets", content)
        return {name: value for name, value in labels.items() if _is_label(value)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"{store.uri}, row {number} ({sample.key}): its .{TARGETS_FIELD} is not a JSON object of targets: {error}"
        ) from error


def _is_label(value: object) -> bool:
    return all(isinstance(one, str | int) for one in (value if isinstance(value, list) else [value]))


def _to_batch(store: Store, rows: list[EvaluationRow]) -> EvaluationBatch:
    names = rows[0].targets.keys()
    for row in rows:
        if row.targets.keys() != names:
            raise EvaluationError(
                f"{store.uri}: row {row.index} carries targets {sorted(row.targets)}, row {rows[0].index} "
                f"{sorted(names)}; every row must carry the same"
            )
    return EvaluationBatch(
        np.array([row.index for row in rows], np.int64),
        np.stack([row.image for row in rows]),
        [row.caption for row in rows],
        [row.captions for row in rows],
        {name: [row.targets[name] for row in rows] for name in names},
    )
