"""Rows of labelled shards, tar or Parquet, by their index."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from orchestrator.data.evaluation_set import EvaluationRow, LabelReader, read_evaluation_rows
from orchestrator.data.index import DatasetIndex, load_index
from orchestrator.data.labelled.labelled_set import RowRequest
from orchestrator.errors import DatasetError
from orchestrator.storage.store import Store


@dataclass(frozen=True)
class ShardRows:
    """A folder of shards; implements ``RowSource``."""

    shards: Store
    labels: LabelReader
    spread: bool
    """Take a limited number of rows in even distances, instead of the first."""
    num_shards: int | None = None
    """What another file says of their number."""

    @cached_property
    def _index(self) -> DatasetIndex:
        index = load_index(self.shards)
        if index is None:
            raise DatasetError(
                f"evaluation.sets: {self.shards.uri} has no index; run: orchestrator data index {self.shards.uri}"
            )
        if self.num_shards not in (None, len(index.shards)):
            raise DatasetError(
                f"evaluation.sets: {self.shards.uri} has {len(index.shards)} shards, its nshards.txt says "
                f"{self.num_shards}; copy the set again, then run: orchestrator data index {self.shards.uri}"
            )
        return index

    @property
    def num_rows(self) -> int:
        return self._index.num_samples

    @property
    def digest(self) -> str:
        return self._index.digest

    def read(self, request: RowRequest) -> Iterator[EvaluationRow]:
        return read_evaluation_rows(
            self.shards,
            self._index,
            request.image_size,
            request.rank,
            request.world_size,
            max_samples=request.max_samples,
            only=request.only,
            all_caption_fields=request.caption_fields,
            labels=self.labels,
            spread=self.spread,
        )
