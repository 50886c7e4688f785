"""What a comparison must know before it is planned: made once for all its runs, and charged to who needs it."""

import logging
from dataclasses import dataclass

from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.runs.captions import read_made_s
from orchestrator.runs.indexing import ensure_index
from orchestrator.runs.prepare import data_locations, ensure_evaluation_sets, prepare_facts, read_facts
from orchestrator.runs.progress import OnProgress
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.facts import Facts
from orchestrator.spec.load import join_uri
from orchestrator.spec.resolve_compare import CompareFacts, probe_job, set_name
from orchestrator.storage.store import check_store, open_store

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
    return CompareFacts(
        by_label={entry.label: read_facts(probe_job(spec, entry, 1), cluster) for entry in spec.objectives},
        targets=_read_targets(spec, cluster),
    )


def prepare_compare_facts(spec: CompareSpec, cluster: ClusterSpec, on_progress: OnProgress | None) -> Prepared:
    """Make what is missing, then read everything.

    Raises:
        UserError: as ``prepare_facts``.
    """
    targets = _read_targets(spec, cluster)
    evaluation = spec.run.evaluation
    uris = [join_uri(cluster.storage.data, name) for name in evaluation.sets]
    ensure_evaluation_sets(evaluation, uris, cluster.storage.s3, on_progress)
    for location in data_locations(probe_job(spec, spec.objectives[0], 1)):
        store = open_store(join_uri(cluster.storage.data, location), cluster.storage.s3)
        check_store(store, write=False)
        ensure_index(store, on_progress)
    facts = {entry.label: prepare_facts(probe_job(spec, entry, 1), cluster, on_progress) for entry in spec.objectives}
    prepared = {label: prepared_for(of_label, cluster.storage.s3) for label, of_label in facts.items()}
    return Prepared(CompareFacts(facts, targets), prepared)


def _read_targets(spec: CompareSpec, cluster: ClusterSpec) -> dict[str, tuple[str, ...]]:
    """Names of the targets of each evaluation set."""
    evaluation, s3 = spec.run.evaluation, cluster.storage.s3
    stores = {name: open_store(join_uri(cluster.storage.data, name), s3) for name in evaluation.sets}
    return {
        set_name(name): tuple(open_labelled_set(store, evaluation.layouts.get(name), s3).targets)
        for name, store in stores.items()
    }
