"""Concepts over all shards of some data sets, as a Ray Data job: each task reads a few shards and answers in one row.

Nothing is shuffled: a task's counts are one row of lists, and the driver adds them up. With ``reader.keeps`` every
shard leaves its concepts beside itself, so that a second start reads those and finds only what is missing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from orchestrator.data.concept_labels import ConceptReader
from orchestrator.labels.concepts import MOST_LABELS, ConceptCounts, count_labels
from orchestrator.wordnet.vocabulary import Vocabulary

MOST_TASKS = 10_000  # planning costs 0.7 ms and 13 kB a task on the driver
Row = dict[str, Any]


@dataclass(frozen=True)
class ShardGroup:
    """Shards of one data set that one task reads, by their place in its index."""

    dataset: int
    shards: tuple[int, ...]


def group_shards(num_samples: Sequence[Sequence[int]], most_tasks: int = MOST_TASKS) -> list[ShardGroup]:
    """Shards that have samples, neighbours together where there are more than ``most_tasks``; by data set and shard."""
    shards = [[number for number, samples in enumerate(of_dataset) if samples] for of_dataset in num_samples]
    size = max(1, -(-sum(map(len, shards)) // most_tasks))
    return [
        ShardGroup(dataset, tuple(numbers[start : start + size]))
        for dataset, numbers in enumerate(shards)
        for start in range(0, len(numbers), size)
    ]


def count_in_shards(
    reader: ConceptReader, groups: Sequence[ShardGroup], labels: Mapping[str, str]
) -> Iterator[ConceptCounts]:
    """Counts of each group, as tasks end. ``labels``: of the nodes that read; none: all.

    Raises what reading raised in a task, within Ray's wrapping.
    """

    def work(group: ShardGroup) -> Row:
        counts = ConceptCounts()
        for shard in group.shards:
            counts.add(ConceptCounts.of_shard(reader.read(group.dataset, shard)))
        row = asdict(counts)
        del row["concepts"]
        return row | {"offsets": list(counts.concepts.keys()), "numbers": list(counts.concepts.values())}

    for row in _map_groups(work, groups, labels):
        concepts = Counter(dict(zip(row.pop("offsets"), row.pop("numbers"), strict=True)))
        yield ConceptCounts(concepts, **row)


def count_labels_in_shards(
    reader: ConceptReader,
    groups: Sequence[ShardGroup],
    vocabulary: Vocabulary,
    max_labels: int,
    labels: Mapping[str, str],
) -> Iterator[tuple[int, NDArray[np.int64], int]]:
    """(shards, captions by number of labels, labels beyond ``max_labels``) of each group, as tasks end.

    Raises as ``count_in_shards``.
    """
    stored = ray.put(vocabulary)

    def work(group: ShardGroup) -> Row:
        known: Vocabulary = ray.get(stored)
        histogram, num_left_out = np.zeros(MOST_LABELS + 1, np.int64), 0
        for shard in group.shards:
            of_shard, left_out = count_labels(reader.read(group.dataset, shard), known, max_labels)
            histogram, num_left_out = histogram + of_shard, num_left_out + left_out
        return {"num_shards": len(group.shards), "histogram": histogram.tolist(), "num_left_out": num_left_out}

    for row in _map_groups(work, groups, labels):
        yield row["num_shards"], np.array(row["histogram"], np.int64), row["num_left_out"]


def _map_groups(
    work: Callable[[ShardGroup], Row], groups: Sequence[ShardGroup], labels: Mapping[str, str]
) -> Iterator[Row]:
    def task(batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(
            [work(ShardGroup(row["dataset"], tuple(row["shards"]))) for row in batch.to_pylist()]
        )

    items = [{"dataset": group.dataset, "shards": list(group.shards)} for group in groups]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset.context.enable_progress_bars = False
    _keep_ray_data_to_its_file()
    dataset.context.execution_options.label_selector = dict(labels) or None
    answers = dataset.map_batches(task, batch_size=None, batch_format="pyarrow", num_cpus=1)
    for answer in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from answer.to_pylist()


def _keep_ray_data_to_its_file() -> None:
    """Ray Data's own lines stay in the log files of the session; a driver shows errors alone."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
