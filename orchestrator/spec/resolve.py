"""A job and a cluster become a Plan: pure arithmetic on what it is given.

It reads nothing, and it refuses what does not divide.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from urllib.parse import unquote

from orchestrator.errors import PlanError
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec, SyntheticSpec
from orchestrator.spec.load import join_uri, local_path
from orchestrator.spec.objective import CatlipSpec
from orchestrator.spec.placement import Placement, check_memory, place_workers
from orchestrator.spec.plan import (
    MAX_UNREAD_BLOCKS,
    BatchPlan,
    DataPlan,
    Plan,
    SourcePlan,
    StreamPlan,
    TrackingPlan,
    WorkersPlan,
)
from orchestrator.spec.resolve_annotations import resolve_annotations
from orchestrator.spec.resolve_batch import (
    resolve_batch,
    resolve_window,
)
from orchestrator.spec.resolve_model import check_dense_annotations, resolve_model
from orchestrator.spec.resolve_start import check_keep_steps, resolve_init, resolve_start
from orchestrator.spec.resolve_workers import (
    count_workers,
    machine_of_workers,
    nodes_of_workers,
    resolve_workers,
)
from orchestrator.spec.stream_reads import blocks_per_task, mean_stored_bytes

MAX_BLOCK_BYTES = 64 * 2**20  # a block is one micro batch; larger ones stall the splitter
STORE_BLOCKS_PER_WORKER = 8  # below that the measured block rate falls three- to sevenfold
MAX_TASKS_PER_EXECUTION = 20_000  # planning costs 0.7 ms and 13 kB a task on the driver
_ROW_OVERHEAD_BYTES = 64  # provenance, stamp and Arrow offsets


def resolve_plan(job: PretrainSpec, cluster: ClusterSpec, facts: Facts) -> Plan:
    """Resolve a job for a cluster.

    Raises:
        PlanError: the two do not fit together; the message says the arithmetic and what to change.
    """
    sources = _resolve_sources(job, cluster, facts)
    num_samples = _num_samples(job, sources)
    num_workers = count_workers(job.workers, cluster)
    placement = place_workers(num_workers, cluster)
    machine = (
        placement.machine(facts.machine.decoder)
        if placement
        else machine_of_workers(facts.machine, num_workers, cluster)
    )
    workers = resolve_workers(job, cluster, machine)
    batch, steps = resolve_batch(job, workers.count, num_samples)
    _check_precision(job, workers)
    check_keep_steps(job, steps)
    model = resolve_model(job, facts, batch, steps)
    annotations = resolve_annotations(job, facts.train, facts.heldout)
    check_dense_annotations(model, annotations)
    stream = _resolve_stream(
        job, cluster, machine, placement, workers, batch, model.image_sizes.all[-1], sources, annotations
    )
    if placement:
        check_memory(placement, stream.object_store_bytes)
    return Plan(
        name=job.name,
        run_uri=join_uri(cluster.storage.runs, job.name),
        seed=job.seed,
        objective=job.objective,
        data=DataPlan(
            spec=job.data,
            sources=sources,
            heldout=facts.heldout,
            num_samples=num_samples,
            decoder=machine.decoder,
            annotations=annotations,
        ),
        model=model,
        init=resolve_init(job, cluster),
        start=resolve_start(job, cluster, steps),
        batch=batch,
        workers=workers,
        machine=machine,
        stream=stream,
        steps=steps,
        optimizer=job.optimizer,
        schedule=job.schedule,
        precision=job.precision,
        zero_stage=job.zero_stage,
        ema=job.ema,
        checkpoint=job.checkpoint,
        evaluation=job.evaluation,
        evaluation_uris=tuple(join_uri(cluster.storage.data, name) for name in job.evaluation.sets),
        faults=job.faults,
        log_every_steps=job.log_every_steps,
        s3=cluster.storage.s3,
        tracking=TrackingPlan(uri=resolve_tracking_uri(cluster), experiment=job.experiment),
    )


def resolve_tracking_uri(cluster: ClusterSpec) -> str:
    """Where runs of a cluster are recorded.

    Raises:
        PlanError: the runs folder is a bucket, which holds no database, and no server is named; or a SQLite file's path
            that its library reads as another.
        StorageAccessError: the runs folder is no URI of a folder.
    """
    uri = cluster.tracking.uri or _embedded_database(cluster)
    if uri.startswith("sqlite:") and ("?" in uri or unquote(uri) != uri):
        key = "storage.runs" if cluster.tracking.uri is None else "tracking.uri"
        raise PlanError(
            f"{key}: {uri} has a '?' or a '%' with two digits, which SQLite's library reads as the end of the path or "
            f"as another character; set tracking.uri in the cluster file to a file whose path has neither"
        )
    return uri


def _embedded_database(cluster: ClusterSpec) -> str:
    if not cluster.storage.runs.startswith("file://"):
        raise PlanError(
            f"storage.runs is {cluster.storage.runs}, which cannot hold MLflow's database; "
            f"set tracking.uri in the cluster file to a tracking server or a sqlite file"
        )
    return f"sqlite:///{local_path(cluster.storage.runs) / 'mlflow.db'}"


def _resolve_sources(job: PretrainSpec, cluster: ClusterSpec, facts: Facts) -> tuple[SourcePlan, ...]:
    if isinstance(job.data, SyntheticSpec):
        return ()
    wanted = job.data.sources
    if len(facts.train) != len(wanted):
        uris = " ".join(join_uri(cluster.storage.data, source.uri) for source in wanted)
        raise PlanError(
            f"data.train: {uris} has no index yet, or not what the job selects of it; "
            f"orchestrator plan --prepare makes both, as a run does first"
        )
    shares = [
        Fraction(str(source.weight or source.proportion or shards.num_usable))
        for source, shards in zip(wanted, facts.train, strict=True)
    ]
    scale = math.lcm(*(share.denominator for share in shares))
    weights = [int(share * scale) for share in shares]
    common = math.gcd(*weights)
    return tuple(
        SourcePlan(shards=shards, weight=weight // common, with_replacement=source.with_replacement)
        for source, shards, weight in zip(wanted, facts.train, weights, strict=True)
    )


def _num_samples(job: PretrainSpec, sources: Sequence[SourcePlan]) -> int:
    """Samples of what ``budget.epochs`` counts."""
    if isinstance(job.data, SyntheticSpec):
        return job.data.num_samples
    usable = sum(source.shards.num_usable for source in sources)
    key, size = max(job.global_sizes(), key=lambda named: named[1])
    if usable < size:
        raise PlanError(
            f"{key} is {size:,}, but {', '.join(source.shards.uri for source in sources)} "
            f"holds {usable:,} samples to train on; wanted at least one global batch"
        )
    return job.data.epoch_samples or usable


def _check_precision(job: PretrainSpec, workers: WorkersPlan) -> None:
    if job.precision == "fp16" and workers.accelerator != "cuda":
        raise PlanError("precision 'fp16' needs CUDA workers (loss scaling); use 'bf16' or 'fp32' here")


def _resolve_stream(
    job: PretrainSpec,
    cluster: ClusterSpec,
    machine: MachineFacts,
    placement: Placement | None,
    workers: WorkersPlan,
    batch: BatchPlan,
    image_size: int,
    sources: Sequence[SourcePlan],
    annotations: Sequence[AnnotationPlan],
) -> StreamPlan:
    num_captions = job.data.captions_per_image if isinstance(job.data, ShardsSpec) else 1
    max_concepts = job.objective.max_concepts_per_image if isinstance(job.objective, CatlipSpec) else 0
    num_ids = max(num_captions * job.text.context, max_concepts + 1)
    row_bytes = 3 * image_size**2 + 4 * num_ids + _ROW_OVERHEAD_BYTES
    row_bytes += sum(annotation.row_bytes(image_size) for annotation in annotations)
    block_bytes = batch.micro_size * row_bytes
    if block_bytes > MAX_BLOCK_BYTES:
        raise PlanError(
            f"a micro batch of {batch.micro_size} images of {image_size} pixels is {block_bytes / 2**20:.0f} MiB; "
            f"a block holds at most {MAX_BLOCK_BYTES // 2**20} MiB: use more workers, or a smaller batch.micro_size"
        )
    num_nodes, share = nodes_of_workers(workers.count, cluster)
    available_bytes = placement.object_store_bytes if placement else int(share * cluster.ray.object_store_bytes)
    ingest_cpus = placement.ingest_cpus if placement else machine.num_cpus - workers.count * workers.cpus
    if ingest_cpus < 1:
        raise PlanError(
            f"{workers.count} workers x {workers.cpus} CPUs take all {machine.num_cpus} logical CPUs and leave none "
            f"to read and decode; lower 'workers' or raise 'ray.num_cpus' in the cluster file"
        )
    window = resolve_window(job, sources)
    _check_shares(sources, window)
    num_nodes = placement.num_worker_nodes if placement else num_nodes
    task_blocks = blocks_per_task(window, batch.micro_size, num_nodes, mean_stored_bytes(sources))
    store_bytes = stream_store_bytes(workers.count, ingest_cpus, task_blocks, block_bytes, available_bytes)
    return StreamPlan(
        block_bytes=block_bytes,
        blocks_per_task=task_blocks,
        num_nodes=num_nodes,
        tasks_per_execution=MAX_TASKS_PER_EXECUTION,
        ingest_cpus=ingest_cpus,
        ingest_labels=cluster.ray.ingest_labels,
        object_store_bytes=store_bytes,
        window=window,
        cache=cluster.storage.cache,
        max_concepts_per_row=max_concepts,
    )


def stream_store_bytes(
    num_workers: int, ingest_cpus: int, task_blocks: int, block_bytes: int, available_bytes: int
) -> int:
    """What blocks on their way may take of the object store: those of all tasks and those that wait for a worker.

    With less, tasks wait for one another, and below ``STORE_BLOCKS_PER_WORKER`` the stream is refused (PlanError).
    """
    waiting = STORE_BLOCKS_PER_WORKER * num_workers * block_bytes
    if waiting > available_bytes:
        raise PlanError(
            f"the stream needs an object store of {waiting / 2**20:.0f} MiB ({STORE_BLOCKS_PER_WORKER} blocks x "
            f"{num_workers} workers x {block_bytes / 2**20:.1f} MiB), the cluster gives "
            f"{available_bytes / 2**20:.0f} MiB; raise 'ray.object_store_bytes' (with launch: "
            f"'object_store' of its nodes) or lower the batch"
        )
    # Tasks run side by side and are read one behind the other: of each, half of its blocks wait on average.
    in_tasks = (ingest_cpus + 1) * max(min(task_blocks, MAX_UNREAD_BLOCKS), task_blocks // 2 + 1) * block_bytes
    return min(waiting + in_tasks * 4 // 3, available_bytes)  # Ray keeps a quarter of it for what waits


def _check_shares(sources: Sequence[SourcePlan], window: int) -> None:
    """Every window must take something of every source, or their order would not be a sequence."""
    total = sum(source.weight for source in sources)
    for source in sources:
        share = source.weight / total
        if len(sources) > 1 and window * share < 2:
            raise PlanError(
                f"data.train: {source.shards.uri} has a share of {share:.2g}, less than 2 samples of a window of "
                f"{window:,}; raise its share, or data.shuffle_window to {math.ceil(2 / share):,}"
            )
