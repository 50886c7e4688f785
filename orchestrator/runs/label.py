"""A prepare job from the driver's side: count the concepts of all captions, keep the vocabulary, say what it covers."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.concept_labels import ConceptReader
from orchestrator.data.concepts import open_finder
from orchestrator.data.node_index import ShardsSource, open_index
from orchestrator.env import apply_quiet_env
from orchestrator.errors import DatasetError, Interrupted, OrchestratorError
from orchestrator.labels.concepts import MOST_LABELS, ConceptCounts, build_vocabulary, describe_coverage
from orchestrator.runs.indexing import ensure_index
from orchestrator.runs.live_preparation import live_preparation
from orchestrator.runs.prepare import machine_facts, read_shards_facts
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.runs.vocabulary import finder_facts, vocabulary_place
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.job import PrepareSpec
from orchestrator.spec.load import join_uri
from orchestrator.storage.store import check_store, open_store
from orchestrator.wordnet.vocabulary import Vocabulary

if TYPE_CHECKING:
    from orchestrator.labels.concepts_job import ShardGroup

T = TypeVar("T")


@dataclass(frozen=True)
class LabelResult:
    """What a prepare job did; plain values for JSON."""

    vocabulary: str
    """URI, as ``objective.vocabulary`` takes it."""
    digest: str
    num_concepts: int
    num_shards: int
    num_stored: int
    """Shards whose concepts had been found by an earlier start."""
    num_samples: int
    num_captions: int
    num_without: int
    """Samples without a caption."""
    num_undecodable: int
    """Captions that are not UTF-8, in shards that were read now."""
    num_cut: int
    """Captions too long to be read to their end, in shards that were read now."""
    coverage: dict[str, Any]
    """See ``labels.concepts.describe_coverage``."""


def label_concepts(job: PrepareSpec, cluster: ClusterSpec, *, on_progress: OnProgress | None = None) -> LabelResult:
    """Run a prepare job to its end. A second start goes on: stored concepts of shards are not found again.

    Raises:
        OrchestratorError: what was wrong with the input, or what ended the work.
        Interrupted: the user stopped it.
    """
    apply_quiet_env()
    from orchestrator.runs.session import ray_session  # Ray is only imported once there is work for it

    try:
        with live_preparation(job.name, cluster, on_progress, is_all=True) as show:
            data_set = _DataSet(job, cluster, show)
            with ray_session(cluster, machine_facts(cluster)):
                return data_set.label()
    except KeyboardInterrupt as error:
        raise Interrupted("labels that are stored stay; start it again to go on") from error


class _DataSet:
    """The training shards of a prepare job, ready to be read."""

    def __init__(self, job: PrepareSpec, cluster: ClusterSpec, on_progress: OnProgress | None) -> None:
        self._job, self._cluster, self._on_progress = job, cluster, on_progress
        s3 = cluster.storage.s3
        stores = tuple(open_store(join_uri(cluster.storage.data, source.uri), s3) for source in job.data.sources)
        for store in stores:
            check_store(store, write=False)
            ensure_index(store, on_progress)
            check_store(store, write=True)
        found = (read_shards_facts(source.uri, cluster) for source in job.data.sources)
        self._facts = [facts for facts in found if facts is not None]
        finder = finder_facts(job.concepts, cluster)
        self._finder = open_finder(finder, s3)
        digests = (facts.digest for facts in self._facts)
        sources = tuple(ShardsSource.now(store, digest) for store, digest in zip(stores, digests, strict=True))
        self._reader = ConceptReader(sources, job.data.drawn_fields, finder, s3, job.store_labels)

    def label(self) -> LabelResult:
        from orchestrator.labels.concepts_job import group_shards

        started_s = time.monotonic()
        indexes = [open_index(source) for source in self._reader.sources]
        groups = group_shards([index.shards.num_samples.tolist() for index in indexes])
        counts = self._count(groups)
        if not counts.num_captions:
            raise DatasetError(
                f"{', '.join(facts.uri for facts in self._facts)}: none of {counts.num_samples:,} samples has a "
                f"caption in {', '.join(self._reader.fields)}; correct data.caption_fields"
            )
        concepts = self._job.concepts
        vocabulary = build_vocabulary(
            counts.concepts,
            counts.num_captions,
            concepts.min_count,
            concepts.max_concepts,
            finder=self._finder.version,
            data=tuple(source.digest for source in self._reader.sources),
        )
        histogram, num_left_out = self._count_labels(groups, vocabulary, counts.num_shards)
        coverage = describe_coverage(vocabulary, histogram, num_left_out, self._finder)
        place = vocabulary_place(self._job.data, concepts, self._cluster, self._facts, None)
        place.write(vocabulary.to_bytes(self._finder.table, coverage), started_s)
        numbers = {name: value for name, value in asdict(counts).items() if name != "concepts"}
        return LabelResult(place.uri, vocabulary.digest, len(vocabulary), coverage=coverage, **numbers)

    def _count(self, groups: Sequence["ShardGroup"]) -> ConceptCounts:
        from orchestrator.labels.concepts_job import count_in_shards

        total, num_shards = ConceptCounts(), sum(len(group.shards) for group in groups)
        for counts in _named_errors(count_in_shards(self._reader, groups, self._cluster.ray.ingest_labels)):
            total.add(counts)
            self._show("find concepts", total.num_shards, num_shards, f"{total.num_captions:,} captions")
        return total

    def _count_labels(
        self, groups: Sequence["ShardGroup"], vocabulary: Vocabulary, num_shards: int
    ) -> tuple[NDArray[np.int64], int]:
        from orchestrator.labels.concepts_job import count_labels_in_shards

        histogram, num_left_out, done = np.zeros(MOST_LABELS + 1, np.int64), 0, 0
        answers = count_labels_in_shards(
            self._reader,
            groups,
            vocabulary,
            self._job.concepts.max_concepts_per_image,
            self._cluster.ray.ingest_labels,
        )
        for number, of_group, left_out in _named_errors(answers):
            histogram, num_left_out, done = histogram + of_group, num_left_out + left_out, done + number
            self._show("measure coverage", done, num_shards, "")
        return histogram, num_left_out

    def _show(self, activity: str, done: int, total: int, note: str) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(activity, done, total, "shards", note))


def _named_errors(answers: Iterator[T]) -> Iterator[T]:
    """What tasks answer; an error of one without Ray's wrapping."""
    from orchestrator.runs.failures import judge_failure

    try:
        yield from answers
    except OrchestratorError:
        raise
    except Exception as error:
        raise judge_failure(error).error from error
