"""From training captions to the tokenizer and the concept vocabulary of a job, kept where the next run finds them.

They lie beside the shards as ``_orchestrator/tokenizer-KEY.json`` and ``_orchestrator/concepts-KEY.parquet``; the key
says which shards and which settings they come from. Synthetic data has no folder: there the run's own holds them.

Captions are read once, in the order of the shards, and of no more than ``MOST_SAMPLES`` samples: counts of pairs and
of concepts settle long before that, and a web-sized data set would be read for hours before training starts. A
vocabulary that ``label.py`` counted over all captions with the same settings is taken instead.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from orchestrator.data.captions import read_captions
from orchestrator.data.concepts import open_finder, open_labeller
from orchestrator.data.index import DatasetIndex, load_index
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.tokens import CaptionTokenizer, load_tokenizer, read_trained_tokenizer, train_tokenizer
from orchestrator.errors import DatasetError, PlanError
from orchestrator.labels.concepts import build_vocabulary, count_concepts
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.facts import FinderFacts, ShardsFacts, TokenizerFacts, VocabularyFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.objective import CatlipSpec, ConceptsSpec
from orchestrator.storage.store import ObjectNotFoundError, Store, open_store
from orchestrator.wordnet.vocabulary import Vocabulary

MOST_SAMPLES = 2_000_000
_SYNTHETIC_CAPTIONS = ("noise",)
_READ_THREADS = 8  # ranged reads wait on the storage, not on a core

logger = logging.getLogger(__name__)


def read_tokenizer_facts(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]
) -> TokenizerFacts | None:
    """The job's tokenizer; None: its objective reads no tokens, or it is trained when the job runs.

    Raises:
        ModelSourceError: the tokenizer that the job names does not load.
    """
    if isinstance(job.objective, CatlipSpec):
        return None
    if job.text.tokenizer is not None:
        name = job.text.tokenizer
        source = Path(name).absolute().as_uri() if Path(name).is_dir() else name  # workers run in other folders
        return _tokenizer_facts(source, load_tokenizer(source, cluster.storage.s3))
    place = _tokenizer_place(job, cluster, train)
    data = place.read()
    return None if data is None else _tokenizer_facts(place.uri, read_trained_tokenizer(data, place.uri))


def read_vocabulary_facts(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]
) -> VocabularyFacts | None:
    """The job's concepts; None: its objective reads none, or they are counted when the job runs.

    Raises:
        StorageAccessError: the vocabulary that the job names does not open.
        DatasetError: it is no vocabulary.
    """
    if not isinstance(job.objective, CatlipSpec):
        return None
    if job.objective.vocabulary is not None:
        uri = join_uri(cluster.storage.data, job.objective.vocabulary)
        folder, _, name = uri.rpartition("/")
        vocabulary = Vocabulary.from_bytes(open_store(folder, cluster.storage.s3).read_bytes(name))
        _check_data(vocabulary, uri, job.objective, train)
        return _vocabulary_facts(uri, vocabulary, job.objective, cluster)
    for place in _vocabulary_places(job, job.objective, cluster, train):
        if (data := place.read()) is not None:
            return _vocabulary_facts(place.uri, Vocabulary.from_bytes(data), job.objective, cluster)
    return None


def prepare_captions(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts], on_progress: OnProgress | None
) -> None:
    """Train the tokenizer or count the concepts that the job needs and nobody made yet.

    Raises:
        DatasetError: no captions, or no concept that is frequent enough.
        StorageAccessError: the folder of the shards takes no files.
    """
    if isinstance(job.objective, CatlipSpec):
        if job.objective.vocabulary is None:
            _prepare_vocabulary(job, job.objective, cluster, train, on_progress)
    elif job.text.tokenizer is None:
        _prepare_tokenizer(job, cluster, train, on_progress)


def _prepare_tokenizer(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts], on_progress: OnProgress | None
) -> None:
    place = _tokenizer_place(job, cluster, train)
    if place.read() is not None:
        return
    captions = _Captions(job, cluster, on_progress) if train else _SYNTHETIC_CAPTIONS
    place.write(train_tokenizer(captions, job.text.trained_size))
    logger.info("trained a tokenizer on the captions: %s", place.uri)


def _prepare_vocabulary(
    job: PretrainSpec,
    objective: CatlipSpec,
    cluster: ClusterSpec,
    train: Sequence[ShardsFacts],
    on_progress: OnProgress | None,
) -> None:
    if not train:
        raise PlanError(
            "objective.vocabulary: synthetic data has no captions to count concepts in; name a concepts.parquet"
        )
    places = _vocabulary_places(job, objective, cluster, train)
    if any(place.read() is not None for place in places):
        return
    finder = open_finder(finder_facts(objective, cluster), cluster.storage.s3)
    captions = _Captions(job, cluster, on_progress)
    counts = count_concepts(captions, finder)
    vocabulary = build_vocabulary(
        counts,
        captions.num_captions,
        objective.min_count,
        objective.max_concepts,
        finder=finder.version,
        data=tuple(shards.digest for shards in train),
    )
    place = places[-1]
    place.write(vocabulary.to_bytes(finder.table))
    logger.info("counted %s concepts in the captions: %s", f"{len(vocabulary):,}", place.uri)


def finder_facts(concepts: ConceptsSpec, cluster: ClusterSpec) -> FinderFacts:
    """What finds the concepts that a job asks for, with its places as URIs."""
    table, tagger = (
        None if location is None else join_uri(cluster.storage.data, location)
        for location in (concepts.noun_table, concepts.tagger)
    )
    return FinderFacts(mode=concepts.mode, noun_table=table, tagger=tagger)


@dataclass(frozen=True)
class Place:
    """Where something that is made from captions lies."""

    folder: str
    name: str
    s3: S3Spec

    @property
    def uri(self) -> str:
        return f"{self.folder}/{self.name}"

    def read(self) -> bytes | None:
        try:
            return open_store(self.folder, self.s3).read_bytes(self.name)
        except ObjectNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        open_store(self.folder, self.s3).write_bytes(self.name, data)


def _tokenizer_place(job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]) -> Place:
    return _place(job, cluster, train, "tokenizer-{}.json", {"size": job.text.trained_size})


def _vocabulary_places(
    job: PretrainSpec, objective: CatlipSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]
) -> list[Place]:
    """Where a vocabulary lies that was counted over all captions, and where the one that a run counts."""
    if not isinstance(job.data, ShardsSpec):
        return []
    return [vocabulary_place(job.data, objective, cluster, train, most) for most in (None, MOST_SAMPLES)]


def vocabulary_place(
    data: ShardsSpec,
    concepts: ConceptsSpec,
    cluster: ClusterSpec,
    train: Sequence[ShardsFacts],
    most_samples: int | None,
) -> Place:
    """Where a vocabulary of these settings lies; ``most_samples`` were read for it, none: all."""
    settings: dict[str, object] = {
        **concepts.model_dump(include={"min_count", "max_concepts"}),
        "finder": open_finder(finder_facts(concepts, cluster), cluster.storage.s3).version,
    }
    return _place_in(data, cluster, train, "concepts-{}.parquet", settings, most_samples)


def _place(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts], pattern: str, settings: dict[str, object]
) -> Place:
    if isinstance(job.data, ShardsSpec):
        return _place_in(job.data, cluster, train, pattern, settings, MOST_SAMPLES)
    folder = join_uri(cluster.storage.runs, job.name)
    return Place(f"{folder}/_orchestrator", pattern.format(_key([], settings)), cluster.storage.s3)


def _place_in(
    data: ShardsSpec,
    cluster: ClusterSpec,
    train: Sequence[ShardsFacts],
    pattern: str,
    settings: dict[str, object],
    most_samples: int | None,
) -> Place:
    settings = {**settings, "caption_fields": data.drawn_fields, "most_samples": most_samples}
    folder = join_uri(cluster.storage.data, data.sources[0].uri)
    return Place(f"{folder}/_orchestrator", pattern.format(_key(train, settings)), cluster.storage.s3)


def _key(train: Sequence[ShardsFacts], settings: dict[str, object]) -> str:
    """Same shards and same settings, same file; anything else, another file beside it."""
    content = [[shards.digest for shards in train], settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_data(vocabulary: Vocabulary, uri: str, objective: CatlipSpec, train: Sequence[ShardsFacts]) -> None:
    for shards in train:
        if shards.digest not in vocabulary.data and not objective.foreign_vocabulary:
            counted = ", ".join(digest[:16] for digest in vocabulary.data) or "unknown data"
            raise DatasetError(
                f"objective.vocabulary: {uri} was counted on other data ({counted}) than {shards.uri} "
                f"({shards.digest[:16]}); leave it out to count this data, or set objective.foreign_vocabulary: true"
            )


def _tokenizer_facts(uri: str, tokenizer: CaptionTokenizer) -> TokenizerFacts:
    return TokenizerFacts(
        uri=uri,
        digest=tokenizer.digest,
        vocabulary_size=tokenizer.vocabulary_size,
        begin_id=tokenizer.begin_id,
        end_id=tokenizer.end_id,
        pad_id=tokenizer.pad_id,
    )


def _vocabulary_facts(uri: str, vocabulary: Vocabulary, objective: CatlipSpec, cluster: ClusterSpec) -> VocabularyFacts:
    labeller = open_labeller(vocabulary, finder_facts(objective, cluster), cluster.storage.s3)
    return VocabularyFacts(uri=uri, digest=vocabulary.digest, size=len(vocabulary), finder=labeller.finder)


class _Captions:
    """All captions of the training shards, one after the other; counts what it gives out and what has none."""

    def __init__(self, job: PretrainSpec, cluster: ClusterSpec, on_progress: OnProgress | None) -> None:
        assert isinstance(job.data, ShardsSpec)
        self._fields = job.data.drawn_fields
        uris = [join_uri(cluster.storage.data, source.uri) for source in job.data.sources]
        self._stores = [open_store(uri, cluster.storage.s3) for uri in uris]
        self._on_progress = on_progress
        self.num_captions = 0

    def __iter__(self) -> Iterator[str]:
        indexes = [_require_index(store) for store in self._stores]
        available = sum(index.num_samples for index in indexes)
        total = min(available, MOST_SAMPLES)
        if total < available:
            logger.info("captions of the first %s of %s samples are read", f"{total:,}", f"{available:,}")
        num_without = num_undecodable = 0
        sources = zip(self._stores, indexes, strict=True)
        samples = chain.from_iterable(_read_samples(store, index, self._fields) for store, index in sources)
        for number, sample in enumerate(islice(samples, total), 1):
            captions, undecodable = read_captions(sample, self._fields)
            num_without += not captions
            num_undecodable += undecodable
            yield from captions.values()
            self.num_captions += len(captions)
            if self._on_progress is not None and (number % 1000 == 0 or number == total):
                self._on_progress(Progress("read captions", number, total, "samples"))
        self._conclude(total, num_without, num_undecodable)

    def _conclude(self, num_samples: int, num_without: int, num_undecodable: int) -> None:
        if self.num_captions == 0:
            raise DatasetError(
                f"{', '.join(store.uri for store in self._stores)}: none of {num_samples:,} samples has a caption in "
                f"{', '.join(self._fields)}; correct data.caption_fields"
            )
        if num_without:
            logger.warning("%s of %s samples have no caption", f"{num_without:,}", f"{num_samples:,}")
        if num_undecodable:
            logger.warning("%s captions are not UTF-8", f"{num_undecodable:,}")


def _require_index(store: Store) -> DatasetIndex:
    index = load_index(store, verify=False)  # it was verified for the facts
    assert index is not None, "folders are indexed before their captions are read"
    return index


def _read_samples(store: Store, index: DatasetIndex, fields: Sequence[str]) -> Iterator[RawSample]:
    """All samples in order; a few chunks are read ahead at once."""
    shards = [shard for shard in index.shards for _ in range(shard.num_chunks)]
    chunks = [chunk for shard in index.shards for chunk in range(shard.num_chunks)]
    read = partial(read_chunk, store, fields=fields)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for start in range(0, len(chunks), _READ_THREADS):
            group = slice(start, start + _READ_THREADS)
            for samples in pool.map(read, shards[group], chunks[group]):
                yield from samples
