"""From training captions to the tokenizer of a job, kept where the next run finds it; ``vocabulary.py`` does concepts.

They lie beside the shards as ``_orchestrator/tokenizer-KEY.json`` and ``_orchestrator/concepts-KEY.parquet``; the key
says which shards and which settings they come from, and ``.made.json`` behind their names how long they took. Synthetic
data has no folder: there the run's own holds them.

Captions are read once, in the order of the shards, and of no more than ``MOST_SAMPLES`` samples: counts of pairs and
of concepts settle long before that, and a web-sized data set would be read for hours before training starts.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from orchestrator.data.captions import read_captions
from orchestrator.data.index import DatasetIndex, load_index
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import ShardRow
from orchestrator.data.tokens import CaptionTokenizer, load_tokenizer, read_trained_tokenizer, train_tokenizer
from orchestrator.errors import DatasetError
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.facts import ShardsFacts, TokenizerFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec
from orchestrator.spec.load import join_uri
from orchestrator.storage.ahead import map_ahead
from orchestrator.storage.store import ObjectNotFoundError, Store, open_store

MOST_SAMPLES = 2_000_000
_FOLDER = "_orchestrator"
_MADE_SUFFIX = ".made.json"
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
    if not job.objective.reads_captions:
        return None
    if job.text.tokenizer is not None:
        name = job.text.tokenizer
        source = Path(name).absolute().as_uri() if Path(name).is_dir() else name  # workers run in other folders
        return tokenizer_facts(source, load_tokenizer(source, cluster.storage.s3))
    place = _tokenizer_place(job, cluster, train)
    data = place.read()
    return None if data is None else tokenizer_facts(place.uri, read_trained_tokenizer(data, place.uri))


def prepare_tokenizer(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts], on_progress: OnProgress | None
) -> None:
    """Train the tokenizer that the job needs and nobody made yet.

    Raises:
        DatasetError: no captions.
        StorageAccessError: the folder of the shards takes no files.
    """
    place = _tokenizer_place(job, cluster, train)
    if place.read() is not None:
        return
    started_s = time.monotonic()
    captions = Captions(job, cluster, on_progress) if train else _SYNTHETIC_CAPTIONS
    place.write(train_tokenizer(captions, job.text.trained_size), started_s)
    logger.info("trained a tokenizer on the captions: %s", place.uri)


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

    def write(self, data: bytes, started_s: float) -> None:
        """``started_s``: when making it began, of ``time.monotonic``; kept beside it, for those who use it later."""
        store = open_store(self.folder, self.s3)
        made = {"seconds": time.monotonic() - started_s}
        store.write_bytes(f"{self.name}{_MADE_SUFFIX}", json.dumps(made).encode())
        store.write_bytes(self.name, data)


def read_made_s(uri: str, s3: S3Spec) -> float | None:
    """How long it took to make what ``Place.write`` put there; none: it comes from elsewhere."""
    folder, _, name = uri.rpartition("/")
    if not folder.endswith(f"/{_FOLDER}"):
        return None
    data = Place(folder, f"{name}{_MADE_SUFFIX}", s3).read()
    return None if data is None else float(json.loads(data)["seconds"])


def _tokenizer_place(job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]) -> Place:
    return _place(job, cluster, train, "tokenizer-{}.json", {"size": job.text.trained_size})


def _place(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts], pattern: str, settings: dict[str, object]
) -> Place:
    if isinstance(job.data, ShardsSpec):
        return place_in(job.data, cluster, train, pattern, settings, MOST_SAMPLES)
    folder = join_uri(cluster.storage.runs, job.name)
    return Place(f"{folder}/{_FOLDER}", pattern.format(_key([], settings)), cluster.storage.s3)


def place_in(
    data: ShardsSpec,
    cluster: ClusterSpec,
    train: Sequence[ShardsFacts],
    pattern: str,
    settings: dict[str, object],
    most_samples: int | None,
) -> Place:
    """Beside the shards of the first source; ``pattern`` has room for the key. ``most_samples``: none: all are read."""
    settings = {**settings, "caption_fields": data.drawn_fields, "most_samples": most_samples}
    folder = join_uri(cluster.storage.data, data.sources[0].uri)
    return Place(f"{folder}/{_FOLDER}", pattern.format(_key(train, settings)), cluster.storage.s3)


def _key(train: Sequence[ShardsFacts], settings: dict[str, object]) -> str:
    """Same shards and same settings, same file; anything else, another file beside it."""
    content = [[shards.digest for shards in train], settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def tokenizer_facts(uri: str, tokenizer: CaptionTokenizer) -> TokenizerFacts:
    """What a plan says of a tokenizer at ``uri``."""
    return TokenizerFacts(
        uri=uri,
        digest=tokenizer.digest,
        vocabulary_size=tokenizer.vocabulary_size,
        begin_id=tokenizer.begin_id,
        end_id=tokenizer.end_id,
        pad_id=tokenizer.pad_id,
    )


class Captions:
    """All captions of the training shards, one after the other; counts what it gives out and what has none."""

    def __init__(self, job: PretrainSpec, cluster: ClusterSpec, on_progress: OnProgress | None) -> None:
        assert isinstance(job.data, ShardsSpec)
        self._fields = job.data.drawn_fields
        self._sources = job.data.sources
        uris = [join_uri(cluster.storage.data, source.uri) for source in self._sources]
        self._stores = [open_store(uri, cluster.storage.s3) for uri in uris]
        self._on_progress = on_progress
        self.num_captions = 0

    def __iter__(self) -> Iterator[str]:
        indexes = [_require_index(store) for store in self._stores]
        available = sum(index.num_samples for index in indexes)
        parts = self._parts([index.num_samples for index in indexes])
        total = sum(parts)
        if total < available:
            logger.info("captions of the first %s of %s samples are read", f"{total:,}", f"{available:,}")
        num_without = num_undecodable = 0
        sources = zip(self._stores, indexes, parts, strict=True)
        samples = chain.from_iterable(
            islice(_read_samples(store, index, self._fields), part) for store, index, part in sources
        )
        for number, sample in enumerate(samples, 1):
            captions, undecodable = read_captions(sample, self._fields)
            num_without += not captions
            num_undecodable += undecodable
            yield from captions.values()
            self.num_captions += len(captions)
            if self._on_progress is not None and (number % 1000 == 0 or number == total):
                self._on_progress(Progress("read captions", number, total, "samples"))
        self._conclude(total, num_without, num_undecodable)

    def _parts(self, sizes: Sequence[int]) -> list[int]:
        """How many samples of each source are read: all, or by its share what is bearable."""
        if sum(sizes) <= MOST_SAMPLES:
            return list(sizes)
        shares = [source.weight or source.proportion or size for source, size in zip(self._sources, sizes, strict=True)]
        wanted = [math.ceil(MOST_SAMPLES * share / sum(shares)) for share in shares]
        return [min(part, size) for part, size in zip(wanted, sizes, strict=True)]

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

    def read(chunk: tuple[ShardRow, int]) -> list[RawSample]:
        return read_chunk(store, *chunk, fields)

    chunks = ((shard, number) for shard in index.shards for number in range(shard.num_chunks))
    yield from chain.from_iterable(map_ahead(read, chunks, threads=_READ_THREADS, ahead=2 * _READ_THREADS))
