"""The concept vocabulary of a job: found, or counted on the training captions and kept where the next run finds it.

It lies beside the shards as ``_orchestrator/concepts-KEY.parquet``. One that ``label.py`` counted over all captions
with the same settings is taken before one that a run counts, which reads no more than ``MOST_SAMPLES`` samples.
"""

import logging
import time
from collections.abc import Sequence

from orchestrator.data.concept_labels import HasLabel, read_chunk_concepts
from orchestrator.data.concepts import Labeller, open_finder, open_labeller
from orchestrator.data.node_index import ShardsSource, open_index
from orchestrator.errors import DatasetError, PlanError
from orchestrator.labels.concepts import build_vocabulary, count_concepts
from orchestrator.runs import captions as captions_module
from orchestrator.runs.captions import Captions, Place, place_in
from orchestrator.runs.progress import OnProgress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import FinderFacts, ShardsFacts, VocabularyFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.objective import CatlipSpec, ConceptsSpec
from orchestrator.storage.store import open_object, open_store
from orchestrator.wordnet.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def read_vocabulary_facts(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]
) -> VocabularyFacts | None:
    """The job's concepts; None: its objective reads none, or they are counted when the job runs.

    Raises:
        StorageAccessError: the vocabulary that the job names does not open.
        DatasetError: it is no vocabulary, or one of other data, another noun table or tagger.
    """
    found = _find_vocabulary(job, cluster, train)
    if found is None:
        return None
    uri, labeller = found
    return vocabulary_facts(uri, labeller.vocabulary, labeller.finder)


def vocabulary_facts(uri: str, vocabulary: Vocabulary, finder: FinderFacts) -> VocabularyFacts:
    """What a plan says of a vocabulary at ``uri``."""
    return VocabularyFacts(uri=uri, digest=vocabulary.digest, size=len(vocabulary), finder=finder)


def find_label_rule(job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]) -> HasLabel | None:
    """What leaves samples without a label out of the plan, where the job wants that and its vocabulary is known."""
    if not isinstance(job.objective, CatlipSpec) or job.objective.no_concept != "drop":
        return None
    found = _find_vocabulary(job, cluster, train)
    if found is None or found[1].stored is None:
        return None
    return HasLabel(found[1].vocabulary, found[1].stored)


def check_stored_labels(job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]) -> None:
    """Look at the stored labels of each source's first shard, before workers start.

    Raises:
        AnnotationError: there are none, or they are of another finder or of another version of the shard.
    """
    found = _find_vocabulary(job, cluster, train)
    if found is None or found[1].stored is None:
        return
    for shards in train:
        store = open_store(shards.uri, cluster.storage.s3)
        first = next(shard for shard in open_index(ShardsSource.now(store, shards.digest)).shards if shard.num_samples)
        read_chunk_concepts(store, first, 0, found[1].stored)


def _find_vocabulary(
    job: PretrainSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]
) -> tuple[str, Labeller] | None:
    """URI and labeller."""
    if not isinstance(job.objective, CatlipSpec):
        return None
    if job.objective.vocabulary is not None:
        uri = join_uri(cluster.storage.data, job.objective.vocabulary)
        store, name = open_object(uri, cluster.storage.s3)
        vocabulary = Vocabulary.from_bytes(store.read_bytes(name))
        _check_data(vocabulary, uri, job.objective, train)
        _check_size(vocabulary, uri, job.objective)
        return uri, _labeller(vocabulary, job, job.objective, cluster)
    for place in _vocabulary_places(job, job.objective, cluster, train):
        if (data := place.read()) is not None:
            return place.uri, _labeller(Vocabulary.from_bytes(data), job, job.objective, cluster)
    return None


def prepare_vocabulary(
    job: PretrainSpec,
    objective: CatlipSpec,
    cluster: ClusterSpec,
    train: Sequence[ShardsFacts],
    on_progress: OnProgress | None,
) -> None:
    """Count the concepts that the job needs and nobody made yet.

    Raises:
        DatasetError: no captions, or no concept that is frequent enough.
        StorageAccessError: the folder of the shards takes no files.
    """
    if objective.vocabulary is not None:
        return
    if not train:
        raise PlanError(
            "objective.vocabulary: synthetic data has no captions to count concepts in; name a concepts.parquet"
        )
    places = _vocabulary_places(job, objective, cluster, train)
    if any(place.read() is not None for place in places):
        return
    started_s = time.monotonic()
    finder = open_finder(finder_facts(objective, cluster), cluster.storage.s3)
    captions = Captions(job, cluster, on_progress)
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
    place.write(vocabulary.to_bytes(finder.table), started_s)
    logger.info("counted %s concepts in the captions: %s", f"{len(vocabulary):,}", place.uri)


def finder_facts(concepts: ConceptsSpec, cluster: ClusterSpec) -> FinderFacts:
    """What finds the concepts that a job asks for, with its places as URIs."""
    table, tagger = (
        None if location is None else join_uri(cluster.storage.data, location)
        for location in (concepts.noun_table, concepts.tagger)
    )
    return FinderFacts(mode=concepts.mode, noun_table=table, tagger=tagger)


def _vocabulary_places(
    job: PretrainSpec, objective: CatlipSpec, cluster: ClusterSpec, train: Sequence[ShardsFacts]
) -> list[Place]:
    """Where a vocabulary lies that was counted over all captions, and where the one that a run counts."""
    if not isinstance(job.data, ShardsSpec):
        return []
    return [
        vocabulary_place(job.data, objective, cluster, train, most) for most in (None, captions_module.MOST_SAMPLES)
    ]


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
    return place_in(data, cluster, train, "concepts-{}.parquet", settings, most_samples)


def _labeller(vocabulary: Vocabulary, job: PretrainSpec, objective: CatlipSpec, cluster: ClusterSpec) -> Labeller:
    fields = job.data.drawn_fields if objective.labels == "stored" and isinstance(job.data, ShardsSpec) else None
    return open_labeller(vocabulary, finder_facts(objective, cluster), cluster.storage.s3, fields)


def _check_data(vocabulary: Vocabulary, uri: str, objective: CatlipSpec, train: Sequence[ShardsFacts]) -> None:
    for shards in train:
        if shards.digest not in vocabulary.data and not objective.foreign_vocabulary:
            counted = ", ".join(digest[:16] for digest in vocabulary.data) or "unknown data"
            raise DatasetError(
                f"objective.vocabulary: {uri} was counted on other data ({counted}) than {shards.uri} "
                f"({shards.digest[:16]}); leave it out to count this data, or set objective.foreign_vocabulary: true"
            )


def _check_size(vocabulary: Vocabulary, uri: str, objective: CatlipSpec) -> None:
    most = objective.max_concepts
    if most is not None and len(vocabulary) > most:
        raise DatasetError(
            f"objective.vocabulary: {uri} holds {len(vocabulary):,} concepts, objective.max_concepts is {most:,}; "
            f"leave max_concepts out to take all of them, or leave vocabulary out to count one of that size"
        )
