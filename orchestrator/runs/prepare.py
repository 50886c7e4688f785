"""What a plan must know and only looking can tell: read as it is, or made first where it is missing.

Owns the order of preparation: places open, folders have an index, captions became a tokenizer or a vocabulary
(``captions.py``). Everything made lies beside the shards, so that a second run finds it.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import psutil

from orchestrator.data.decode import decoder_version
from orchestrator.data.index import DatasetIndex, load_index
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.data.predicate import SampleRule
from orchestrator.data.selection import OpenList, ensure_selection, find_selection, selection_key
from orchestrator.errors import PlanError
from orchestrator.runs.annotations import read_annotation_facts
from orchestrator.runs.captions import prepare_tokenizer, read_tokenizer_facts
from orchestrator.runs.indexing import ensure_index
from orchestrator.runs.progress import OnProgress, Progress
from orchestrator.runs.vocabulary import (
    check_stored_labels,
    find_label_rule,
    prepare_vocabulary,
    read_vocabulary_facts,
)
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.objective import CatlipSpec
from orchestrator.spec.resolve_annotations import annotation_folders
from orchestrator.spec.selection import SelectionSpec
from orchestrator.storage.store import Store, check_store, open_object, open_store


def read_facts(job: PretrainSpec, cluster: ClusterSpec) -> Facts:
    """What is known now; writes nothing. What a run would make first is None.

    Raises:
        UserError: a place that does not open, a tokenizer or vocabulary that does not load.
    """
    train: tuple[ShardsFacts, ...] = ()
    heldout = None
    if isinstance(job.data, ShardsSpec):
        folders = annotation_folders(job)
        rule = find_label_rule(job, cluster, _read_index_facts(job.data, cluster)) if _drops(job) else None
        if rule is not None or not _drops(job):
            train = _read_train_facts(job.data, cluster, folders, rule)
        heldout = read_shards_facts(job.data.heldout, cluster, folders=folders) if job.data.heldout else None
    return Facts(
        machine=machine_facts(cluster),
        train=train,
        heldout=heldout,
        tokenizer=read_tokenizer_facts(job, cluster, train),
        vocabulary=read_vocabulary_facts(job, cluster, train),
    )


def prepare_facts(job: PretrainSpec, cluster: ClusterSpec, on_progress: OnProgress | None = None) -> Facts:
    """Make what is missing (indexes, tokenizer, vocabulary), then read everything.

    Raises:
        UserError: as ``read_facts``; also no shards or samples, no concept that is frequent enough, a folder of
            shards that takes no index.
    """
    check_store(open_store(cluster.storage.runs, cluster.storage.s3), write=True)
    locations = data_locations(job)
    for location in locations:
        check_store(_open_data(location, cluster), write=False)
    uris = [join_uri(cluster.storage.data, name) for name in job.evaluation.sets]
    ensure_evaluation_sets(job.evaluation, uris, cluster.storage.s3, on_progress)
    for location in locations:
        ensure_index(_open_data(location, cluster), on_progress)
    indexed = _read_index_facts(job.data, cluster) if isinstance(job.data, ShardsSpec) else ()
    if isinstance(job.objective, CatlipSpec):
        prepare_vocabulary(job, job.objective, cluster, indexed, on_progress)
        check_stored_labels(job, cluster, indexed)
    elif job.objective.reads_captions and job.text.tokenizer is None:
        prepare_tokenizer(job, cluster, indexed, on_progress)
    if isinstance(job.data, ShardsSpec):
        _ensure_selections(job.data, cluster, on_progress, find_label_rule(job, cluster, indexed))
    return read_facts(job, cluster)


def data_locations(job: PretrainSpec) -> list[str]:
    """Every folder of shards that is trained on or held out, as the job names it."""
    if not isinstance(job.data, ShardsSpec):
        return []
    train = [source.uri for source in job.data.sources]
    return list(dict.fromkeys([*train, *([job.data.heldout] if job.data.heldout else [])]))


def read_shards_facts(
    location: str,
    cluster: ClusterSpec,
    select: SelectionSpec | None = None,
    folders: Mapping[str, str] = MappingProxyType({}),
    rule: SampleRule | None = None,
) -> ShardsFacts | None:
    """What the index of a folder of shards says, and the selection; None where either is not made yet.

    Args:
        folders: of annotations that are wanted, by the objective's word for each.
        rule: what selects samples beside ``select``.

    Raises:
        StorageAccessError: the folder does not open.
        DatasetError: the index does not match its shards, or a list of samples does not open.
        AnnotationError: an annotation was made for other shards, or not by one maker.
    """
    store = _open_data(location, cluster)
    check_store(store, write=False)
    index = load_index(store)
    if index is None:
        return None
    annotations = read_annotation_facts(store, index, folders)
    facts = _index_facts(location, cluster, index).model_copy(update={"annotations": annotations})
    if select is None and rule is None:
        return facts
    selection = find_selection(store, selection_key(store, index, select, _list_opener(cluster), rule))
    if selection is None:
        return None
    kept = {"selection": selection.digest, "num_kept": selection.num_kept, "filtered": selection.filtered}
    return facts.model_copy(update=kept)


def _index_facts(location: str, cluster: ClusterSpec, index: DatasetIndex) -> ShardsFacts:
    return ShardsFacts(
        uri=join_uri(cluster.storage.data, location),
        digest=index.digest,
        layout=index.shards.layout_digest(),
        num_shards=len(index.shards),
        num_samples=index.num_samples,
        bytes=index.size_bytes,
        num_counted=index.num_counted,
    )


def ensure_evaluation_sets(
    evaluation: EvaluationSpec, uris: Sequence[str], s3: S3Spec, on_progress: OnProgress | None = None
) -> None:
    """Look at every set before a model is trained for it, then index those whose rows lie in shards.

    Raises:
        StorageAccessError: a folder that does not open.
        DatasetError: a folder of no known layout, or one whose description does not read.
        PlanError: a target to fine-tune on that no set has.
    """
    named = zip(evaluation.sets, uris, strict=True)
    sets = [open_labelled_set(open_store(uri, s3), evaluation.layouts.get(name), s3) for name, uri in named]
    if sets and (wrong := evaluation.fine_tune.say_unknown([name for one in sets for name in one.targets])):
        raise PlanError(wrong)
    for folder in [folder for one in sets for folder in one.shard_folders]:
        ensure_index(folder, on_progress)


def machine_facts(cluster: ClusterSpec) -> MachineFacts:
    """Cores of this machine that we may use, and the logical CPUs that Ray hands out.

    By default two a core, and so many that something is left to read while all workers train.
    """
    num_cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if sys.platform == "linux":
        num_cores = min(num_cores, len(os.sched_getaffinity(0)))
    workers = cluster.workers
    return MachineFacts(
        num_cores=num_cores,
        num_cpus=cluster.ray.num_cpus or max(2 * num_cores, workers.count * workers.cpus + 1),
        decoder=decoder_version(),
    )


def _drops(job: PretrainSpec) -> bool:
    return isinstance(job.objective, CatlipSpec) and job.objective.no_concept == "drop"


def _read_index_facts(data: ShardsSpec, cluster: ClusterSpec) -> tuple[ShardsFacts, ...]:
    """Of each source, its selection aside; nothing while one of them has no index."""
    return _all_known([read_shards_facts(source.uri, cluster) for source in data.sources])


def _read_train_facts(
    data: ShardsSpec, cluster: ClusterSpec, folders: Mapping[str, str], rule: SampleRule | None
) -> tuple[ShardsFacts, ...]:
    """Of each source; nothing while one of them is not ready."""
    return _all_known([read_shards_facts(source.uri, cluster, source.select, folders, rule) for source in data.sources])


def _all_known(found: Sequence[ShardsFacts | None]) -> tuple[ShardsFacts, ...]:
    known = tuple(facts for facts in found if facts is not None)
    return known if len(known) == len(found) else ()


def _ensure_selections(
    data: ShardsSpec, cluster: ClusterSpec, on_progress: OnProgress | None, rule: SampleRule | None
) -> None:
    for source in data.sources:
        if source.select is None and rule is None:
            continue
        store = _open_data(source.uri, cluster)
        index = load_index(store, verify=False)
        assert index is not None, "folders are indexed before samples are selected"
        show = partial(_show_shards, on_progress, f"select samples of {store.uri}")
        ensure_selection(store, index, source.select, _list_opener(cluster), show, rule)


def _show_shards(on_progress: OnProgress | None, activity: str, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(Progress(activity, done, total, "shards"))


def _list_opener(cluster: ClusterSpec) -> OpenList:
    """A list of samples lies where data does: a URI, or a path below the cluster's ``storage.data``."""

    def open_list(location: str) -> tuple[Store, str]:
        return open_object(join_uri(cluster.storage.data, location), cluster.storage.s3)

    return open_list


def _open_data(location: str, cluster: ClusterSpec) -> Store:
    return open_store(join_uri(cluster.storage.data, location), cluster.storage.s3)
