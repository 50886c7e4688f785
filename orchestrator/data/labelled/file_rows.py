"""Rows that are image files of their own, read a few ahead: a request to a bucket takes longer than a decode."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.data.evaluation_set import EvaluationRow, Label, own_numbers, say_left_out
from orchestrator.data.image import center_image
from orchestrator.data.labelled.labelled_set import RowRequest
from orchestrator.data.retry import retried
from orchestrator.data.sample import BadSampleError
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.ahead import map_ahead
from orchestrator.storage.store import ObjectNotFoundError, Store

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_MAX_PIXELS: int = ShardsSpec.model_fields["max_image_pixels"].default
_THREADS, _FILES_AHEAD = 8, 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledFile:
    """One image and what is known of it."""

    path: str
    targets: dict[str, Label] = field(default_factory=dict)
    captions: tuple[str, ...] = ()


def drop_empty_captions(store: Store, files: Sequence[LabelledFile]) -> list[LabelledFile]:
    """The files without captions that say nothing (as of shards): each would be a right answer of all such images."""
    kept = [replace(file, captions=tuple(caption for caption in file.captions if caption)) for file in files]
    num_empty = sum(len(file.captions) for file in files) - sum(len(file.captions) for file in kept)
    if num_empty:
        logger.warning("%s: %d empty captions left out", store.uri, num_empty)
    return kept


@dataclass(frozen=True)
class FileRows:
    """Image files in the order in which they are given; implements ``RowSource``."""

    store: Store
    files: Sequence[LabelledFile]

    shards = None

    @property
    def num_rows(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        content = hashlib.sha256()
        for file in self.files:
            content.update(f"{json.dumps([file.path, file.targets, file.captions])}\n".encode())
        return content.hexdigest()

    def read(self, request: RowRequest) -> Iterator[EvaluationRow]:
        own = own_numbers(len(self.files), request.max_samples, request.rank, request.world_size, spread=True)
        if request.only is not None:
            own = [number for number in own if number in request.only]
        skipped: Counter[str] = Counter()
        for number, content in self._contents(own):
            file = self.files[number]
            try:
                if content is None:
                    raise BadSampleError("image_missing")
                image, _ = center_image(content, _MAX_PIXELS, request.image_size)
            except BadSampleError as error:
                skipped[error.reason] += 1
                continue
            yield EvaluationRow(number, image, "", file.captions, file.targets)
        say_left_out(self.store, skipped)

    def _contents(self, numbers: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
        """(number, content) in order; none: the file is gone."""
        paths = (self.files[number].path for number in numbers)
        contents = map_ahead(self._read, paths, threads=_THREADS, ahead=_FILES_AHEAD)
        return zip(numbers, contents, strict=True)

    def _read(self, path: str) -> bytes | None:
        try:
            return retried(lambda: self.store.read_bytes(path))
        except ObjectNotFoundError:
            return None
