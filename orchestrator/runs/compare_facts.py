"""What a comparison must know before it is planned: made once for all its runs, and charged to who needs it."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.errors import DatasetError
from orchestrator.runs.captions import read_made_s
from orchestrator.runs.class_names import count_named
from orchestrator.runs.indexing import ensure_index
from orchestrator.runs.prepare import data_locations, ensure_evaluation_sets, prepare_facts, read_facts
from orchestrator.runs.progress import OnProgress
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_scores import AskedFacts
from orchestrator.spec.evaluation import EvaluationSpec, set_name
from orchestrator.spec.facts import Facts
from orchestrator.spec.load import join_uri
from orchestrator.spec.resolve_compare import CompareFacts, probe_job, shared_vocabulary
from orchestrator.storage.store import check_store, open_store
from orchestrator.training.known_classes import known_classes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Facts, and what it took to make those that not every objective needs."""

    facts: CompareFacts
    prepared: dict[str, dict[str, float]]
    """By label: see ``prepared_for``."""


def prepared_for(facts: Facts, s3: S3Spec) -> dict[str, float]:
    """Seconds that the vocabulary or tokenizer of an objective took, by place; whoever made it, and when."""
    places = [found.uri for found in (facts.vocabulary, facts.tokenizer) if found is not None]
    return {uri: seconds for uri in places if (seconds := read_made_s(uri, s3)) is not None}


def read_compare_facts(spec: CompareSpec, cluster: ClusterSpec) -> CompareFacts:
    """What is known now; writes nothing. Raises as ``read_facts`` does."""
    by_label = {entry.label: read_facts(probe_job(spec, entry, 1), cluster) for entry in spec.objectives}
    return CompareFacts(by_label, _read_asked(spec, cluster, by_label))


def prepare_compare_facts(spec: CompareSpec, cluster: ClusterSpec, on_progress: OnProgress | None) -> Prepared:
    """Make what is missing, then read everything.

    Raises:
        UserError: as ``prepare_facts``.
    """
    evaluation = spec.run.evaluation
    _open_sets(evaluation, cluster)  # what is wrong with a set is said before minutes go by
    uris = [join_uri(cluster.storage.data, name) for name in evaluation.sets]
    ensure_evaluation_sets(evaluation, uris, cluster.storage.s3, on_progress)
    for location in data_locations(probe_job(spec, spec.objectives[0], 1)):
        store = open_store(join_uri(cluster.storage.data, location), cluster.storage.s3)
        check_store(store, write=False)
        ensure_index(store, on_progress)
    facts = {entry.label: prepare_facts(probe_job(spec, entry, 1), cluster, on_progress) for entry in spec.objectives}
    prepared = {label: prepared_for(of_label, cluster.storage.s3) for label, of_label in facts.items()}
    return Prepared(CompareFacts(facts, _read_asked(spec, cluster, facts)), prepared)


def _read_asked(spec: CompareSpec, cluster: ClusterSpec, by_label: Mapping[str, Facts]) -> AskedFacts:
    """What the evaluation sets ask, with what the vocabularies that are there say of their classes."""
    evaluation, s3 = spec.run.evaluation, cluster.storage.s3
    sets = _open_sets(evaluation, cluster)
    targets = {name: found.targets for name, found in sets.items()}
    vocabulary, divided = shared_vocabulary(by_label), dict[str, tuple[str, ...]]()
    if vocabulary is not None:
        divided = {name: tuple(known_classes(vocabulary, s3, own)) for name, own in targets.items()}
    is_counted_later = vocabulary is None and any(entry.objective.reads_concepts for entry in spec.objectives)
    unnamed = {
        entry.label: {
            name: tuple(target for target, number in (named or {}).items() if number == 0)
            for name, own in targets.items()
            for named in [count_named(entry.objective, known, own, evaluation.min_synset_similarity, s3)]
        }
        for entry in spec.objectives
        if "zero_shot" in evaluation.probes and (known := by_label[entry.label].vocabulary) is not None
    }
    return AskedFacts(targets, None if is_counted_later else divided, unnamed, _read_digests(sets))


def _open_sets(evaluation: EvaluationSpec, cluster: ClusterSpec) -> dict[str, LabelledSet]:
    """The evaluation sets, by their names in metrics."""
    s3 = cluster.storage.s3
    stores = {name: open_store(join_uri(cluster.storage.data, name), s3) for name in evaluation.sets}
    return {
        set_name(name): open_labelled_set(store, evaluation.layouts.get(name), s3) for name, store in stores.items()
    }


def _read_digests(sets: Mapping[str, LabelledSet]) -> dict[str, str]:
    """Of those whose rows are known; a run makes the index that is wanting before it asks."""
    found = {}
    for name, one in sets.items():
        with suppress(DatasetError):
            found[name] = one.digest
    return found
