"""What can be wrong before anything starts, looked at one by one: the command ``check``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.data.concepts import open_finder
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.errors import OrchestratorError, PlanError, StorageAccessError
from orchestrator.runs.baselines import start_baseline
from orchestrator.runs.class_names import count_named
from orchestrator.runs.compare_facts import read_compare_facts
from orchestrator.runs.compare_folder import check_comparison, load_calibration
from orchestrator.runs.folder import check_claim, open_run
from orchestrator.runs.prepare import data_locations, read_facts, read_shards_facts
from orchestrator.runs.start import check_start
from orchestrator.runs.vocabulary import finder_facts
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.describe import describe_plan
from orchestrator.spec.describe_compare import describe_compare
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import stand_in_facts
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, PretrainSpec, SyntheticSpec
from orchestrator.spec.kinds import Job
from orchestrator.spec.load import join_uri
from orchestrator.spec.resolve import resolve_plan, resolve_tracking_uri
from orchestrator.spec.resolve_compare import CompareFacts, probe_job, resolve_compare
from orchestrator.spec.resolve_workers import count_workers
from orchestrator.storage.lease import check_free
from orchestrator.storage.local import LocalStore
from orchestrator.storage.store import Store, check_store, open_store

Look = tuple[str, Callable[[], str]]


@dataclass(frozen=True)
class Finding:
    """What one look found; ``detail`` says what holds, or what is wrong and what to change."""

    subject: str
    holds: bool
    detail: str


def check_job(job: Job, cluster: ClusterSpec) -> Iterator[Finding]:
    """Look at everything a job needs on a cluster; what is wrong with one thing does not hide the next."""
    match job:
        case PretrainSpec():
            looks = _pretrain_looks(job, cluster)
        case EvaluateSpec():
            looks = _evaluate_looks(job, cluster)
        case PrepareSpec():
            looks = _prepare_looks(job, cluster)
        case CompareSpec():
            looks = _compare_looks(job, cluster)
    for subject, look in looks:
        try:
            yield Finding(subject, True, look())
        except OrchestratorError as error:
            yield Finding(subject, False, str(error))


def _pretrain_looks(job: PretrainSpec, cluster: ClusterSpec) -> Iterator[Look]:
    for location in data_locations(job):
        yield f"data {location}", partial(_look_at_shards, location, cluster)
    for location in job.evaluation.sets:
        yield f"evaluation set {location}", partial(_look_at_evaluation_set, location, job.evaluation, cluster)
    yield "captions", partial(_look_at_captions, job, cluster)
    yield "plan", partial(_look_at_plan, job, cluster)
    yield f"run {job.name}", partial(_look_at_holder, job, cluster)
    yield "runs folder", partial(_look_at_folder, cluster.storage.runs, cluster)
    yield "tracking", partial(_look_at_tracking, job.experiment, cluster)


def _evaluate_looks(job: EvaluateSpec, cluster: ClusterSpec) -> Iterator[Look]:
    run_uri = join_uri(cluster.storage.runs, job.run)
    yield f"run {job.run}", partial(_look_at_run, run_uri, cluster)
    for location in job.evaluation.sets:
        yield f"evaluation set {location}", partial(_look_at_evaluation_set, location, job.evaluation, cluster)
        if "zero_shot" in job.evaluation.probes:
            yield f"classes of {location}", partial(_look_at_classes, location, job.evaluation, run_uri, cluster)
    yield "workers", lambda: f"{count_workers(job.workers, cluster)} judge together"


def _compare_looks(job: CompareSpec, cluster: ClusterSpec) -> Iterator[Look]:
    jobs = {entry.label: probe_job(job, entry, steps=1) for entry in job.objectives}
    for location in data_locations(next(iter(jobs.values()))):
        yield f"data {location}", partial(_look_at_shards, location, cluster)
    for location in job.run.evaluation.sets:
        yield f"evaluation set {location}", partial(_look_at_evaluation_set, location, job.run.evaluation, cluster)
    for label, of_objective in jobs.items():
        yield f"captions for {label}", partial(_look_at_captions, of_objective, cluster)
    for name in job.baselines:
        yield f"baseline {name}", partial(_look_at_baseline, name, cluster)
    yield "plan", partial(_look_at_comparison, job, cluster)
    yield f"comparison {job.name}", partial(_look_at_holder, job, cluster)
    yield "runs folder", partial(_look_at_folder, cluster.storage.runs, cluster)
    yield "tracking", partial(_look_at_tracking, job.experiment, cluster)


def _prepare_looks(job: PrepareSpec, cluster: ClusterSpec) -> Iterator[Look]:
    for source in job.data.sources:
        yield f"data {source.uri}", partial(_look_at_shards, source.uri, cluster)
        yield (
            f"files beside {source.uri}",
            partial(_look_at_folder, join_uri(cluster.storage.data, source.uri), cluster),
        )
    yield "concepts", partial(_look_at_finder, job, cluster)


def _look_at_finder(job: PrepareSpec, cluster: ClusterSpec) -> str:
    return open_finder(finder_facts(job.concepts, cluster), cluster.storage.s3).version


def _look_at_shards(location: str, cluster: ClusterSpec) -> str:
    facts = read_shards_facts(location, cluster)
    if facts is None:
        return "opens; not indexed yet, a run does that first"
    return f"{facts.num_samples:,} samples in {facts.num_shards:,} shards"


def _look_at_evaluation_set(location: str, evaluation: EvaluationSpec, cluster: ClusterSpec) -> str:
    store = open_store(join_uri(cluster.storage.data, location), cluster.storage.s3)
    found = open_labelled_set(store, evaluation.layouts.get(location), cluster.storage.s3)
    asked = ", ".join(found.targets) or "captions alone"
    return f"layout {found.layout}: {asked}"


def _look_at_classes(location: str, evaluation: EvaluationSpec, run_uri: str, cluster: ClusterSpec) -> str:
    """Whether the run's checkpoint can name them as it is."""
    _, plan, _ = open_run(run_uri, cluster.storage.s3)
    store = open_store(join_uri(cluster.storage.data, location), cluster.storage.s3)
    targets = open_labelled_set(store, evaluation.layouts.get(location), cluster.storage.s3).targets
    named = count_named(
        plan.objective, plan.model.vocabulary, targets, evaluation.min_synset_similarity, cluster.storage.s3
    )
    if not targets or named is None:
        return "no zero-shot classification"
    if not any(named.values()):
        why = "they have no templates" if plan.objective.reads_captions else "no concept of its vocabulary is near one"
        raise PlanError(
            f"{run_uri} can name no class of {location} ({', '.join(targets)}): {why}; leave zero_shot out of "
            f"evaluation.probes, or give evaluation.layouts class names and templates that it knows"
        )
    said = (f"{name}: {number} of {len(targets[name].classes)}" for name, number in named.items())
    return "zero-shot names " + ", ".join(said)


def _look_at_captions(job: PretrainSpec, cluster: ClusterSpec) -> str:
    facts = read_facts(job, cluster)
    if facts.tokenizer is not None:
        return f"tokenizer with {facts.tokenizer.vocabulary_size:,} tokens; {facts.tokenizer.uri}"
    if facts.vocabulary is not None:
        return f"{facts.vocabulary.size:,} concepts; {facts.vocabulary.uri}"
    return "a run reads them first: tokenizer or concepts are not made yet"


def _look_at_plan(job: PretrainSpec, cluster: ClusterSpec) -> str:
    facts = read_facts(job, cluster)
    if isinstance(job.data, SyntheticSpec) or facts.train:
        plan = resolve_plan(job, cluster, facts)
        check_claim(open_store(plan.run_uri, plan.s3), plan)
        check_start(plan)
        return dict(describe_plan(plan))["batch"]
    resolve_plan(job, cluster, facts.model_copy(update={"train": stand_in_facts(job)}))
    return "job and cluster fit; the number of steps follows from the index"


def _look_at_comparison(job: CompareSpec, cluster: ClusterSpec) -> str:
    facts = read_compare_facts(job, cluster)
    if isinstance(job.run.data, SyntheticSpec) or all(known.train for known in facts.by_label.values()):
        return _look_at_claim(job, cluster, facts)
    stand_in = {
        entry.label: facts.by_label[entry.label].model_copy(
            update={"train": stand_in_facts(probe_job(job, entry, steps=1))}
        )
        for entry in job.objectives
    }
    resolve_compare(job, cluster, replace(facts, by_label=stand_in))
    return "objectives and cluster fit; the plan follows from the index"


def _look_at_claim(job: CompareSpec, cluster: ClusterSpec, facts: CompareFacts) -> str:
    """The plan of a comparison, and that no other one has its name; steps of seconds are those of its first start."""
    store = open_store(join_uri(cluster.storage.runs, job.name), cluster.storage.s3)
    plan = resolve_compare(job, cluster, facts)
    if not plan.calibrated:
        facts = replace(facts, seconds_per_step=load_calibration(store, plan.identities))
        plan = resolve_compare(job, cluster, facts)
    if plan.calibrated:
        check_comparison(store, plan)
    return dict(describe_compare(plan))["trials"]


def _look_at_holder(job: PretrainSpec | CompareSpec, cluster: ClusterSpec) -> str:
    check_free(open_store(join_uri(cluster.storage.runs, job.name), cluster.storage.s3))
    return "nobody holds it"


def check_takes_files(uri: str, cluster: ClusterSpec) -> Store:
    """The store at ``uri``, after a write. A folder of machines that are taken for each job is never made: what this
    machine lacks may only not be mounted here.

    Raises:
        StorageAccessError: it does not open, or takes no files.
    """
    store = open_store(uri, cluster.storage.s3)
    if cluster.launch is not None and isinstance(store, LocalStore) and not Path(store.uri).is_dir():
        raise StorageAccessError(
            f"folder {store.uri} is not on this machine; look from one of cluster '{cluster.name}', or mount it; where "
            f"it is not there either, make it"
        )
    check_store(store, write=True)
    return store


def _look_at_folder(uri: str, cluster: ClusterSpec) -> str:
    check_takes_files(uri, cluster)
    return f"{uri} takes files"


def _look_at_tracking(experiment: str, cluster: ClusterSpec) -> str:
    from orchestrator.tracking.mlflow.runs import check_tracking, list_runs  # takes seconds to import

    uri = resolve_tracking_uri(cluster)
    check_tracking(uri, experiment)
    return f"{uri} answers; {len(list_runs(uri, experiment)):,} runs in experiment {experiment}"


def _look_at_baseline(name: str, cluster: ClusterSpec) -> str:
    row = start_baseline(name, cluster)
    return f"{row.checkpoint_uri} is judged once the trials have ended"


def _look_at_run(run_uri: str, cluster: ClusterSpec) -> str:
    _, plan, _ = open_run(run_uri, cluster.storage.s3)
    return f"{run_uri}: {plan.objective.name} with {plan.model.preset}, {plan.steps:,} steps"
