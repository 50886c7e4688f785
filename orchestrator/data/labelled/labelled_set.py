"""A labelled set, whatever its layout: what it asks, the rows that are judged, and perhaps rows to fit probes to."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.data.evaluation_set import EvaluationRow
from orchestrator.spec.evaluation import Layout
from orchestrator.spec.targets import TargetSpec
from orchestrator.storage.store import Store


@dataclass(frozen=True)
class RowRequest:
    """Which rows a rank wants, and of what."""

    image_size: int
    rank: int = 0
    world_size: int = 1
    max_samples: int | None = None
    caption_fields: tuple[str, ...] = ()
    """Members or columns whose lines are captions, where rows lie in shards; none: no captions are wanted."""
    only: frozenset[int] | None = None
    """Numbers of the rows that are wanted; none: all."""


class RowSource(Protocol):
    """Images with labels and captions, in an order that never changes."""

    @property
    def num_rows(self) -> int:
        """Of all ranks; raises DatasetError where shards have no index."""

    @property
    def digest(self) -> str:
        """Another one for other rows; raises as ``num_rows``."""

    @property
    def shards(self) -> Store | None:
        """The folder that needs an index; none: the rows are files of their own."""

    def read(self, request: RowRequest) -> Iterator[EvaluationRow]:
        """This rank's rows, each row exactly once over all ranks; bad ones are left out and counted."""


@dataclass(frozen=True)
class LabelledSet:
    """What ``open_labelled_set`` found in a folder. Picklable: one rank finds it for all."""

    uri: str
    layout: Layout
    targets: Mapping[str, TargetSpec]
    """None where rows carry captions alone."""
    judged: RowSource
    train: RowSource | None = None
    """The set's own training part, where it was asked for."""
    train_samples: int | None = None

    @property
    def digest(self) -> str:
        """Sixteen hex digits that say whether two sets ask the same of the same rows."""
        targets = {name: target.model_dump(mode="json") for name, target in self.targets.items()}
        parts = [None if source is None else source.digest for source in (self.judged, self.train)]
        content = json.dumps([self.layout, targets, parts, self.train_samples], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def shard_folders(self) -> list[Store]:
        """What needs an index before rows can be read."""
        sources = (self.judged, self.train)
        return [source.shards for source in sources if source is not None and source.shards is not None]

    @property
    def first_train_row(self) -> int | None:
        """Rows of the training part are numbered from here on; none: there is no such part."""
        return None if self.train is None else self.judged.num_rows

    def num_asked_for(self, max_samples: int | None) -> int:
        """Rows that all ranks together are to read; what is left out of them is wanting afterwards."""
        parts = [(self.judged, max_samples), (self.train, self.train_samples)]
        sizes = ((source.num_rows, most) for source, most in parts if source is not None)
        return sum(num_rows if most is None else min(num_rows, most) for num_rows, most in sizes)

    def read(self, request: RowRequest) -> Iterator[EvaluationRow]:
        """The judged rows, then those of the training part."""
        yield from self.judged.read(request)
        if self.train is not None:
            first = self.judged.num_rows
            only = None if request.only is None else frozenset(number - first for number in request.only)
            for row in self.train.read(replace(request, max_samples=self.train_samples, only=only)):
                yield replace(row, index=first + row.index)
