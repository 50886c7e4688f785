"""The Plan: a job resolved for a cluster, and the arithmetic that resolves it.

Only the Plan travels: to workers, into MLflow, into checkpoints. Pure arithmetic on what it is given; it reads
nothing, and it refuses what does not divide.
"""

import hashlib
import json
import math
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import ValidationError

from orchestrator.errors import PlanError
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.facts import Facts, MachineFacts, ShardsFacts, TokenizerFacts, VocabularyFacts
from orchestrator.spec.job import (
    AugmentationSpec,
    CheckpointSpec,
    EmaSpec,
    EvaluationSpec,
    FaultsSpec,
    OptimizerSpec,
    PretrainSpec,
    ScheduleSpec,
    SeedSpec,
    ShardsSpec,
    SyntheticSpec,
)
from orchestrator.spec.load import join_uri
from orchestrator.spec.objective import ObjectiveSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.section import Section

MAX_BLOCK_BYTES = 64 * 2**20  # a block is one micro batch; larger ones stall the splitter
STORE_BLOCKS_PER_WORKER = 8  # below that the measured block rate falls three- to sevenfold
MIN_BLOCKS_PER_TASK, MAX_BLOCKS_PER_TASK = 2, 8
MAX_TASKS_PER_EXECUTION = 20_000  # planning costs 0.7 ms and 13 kB a task on the driver
_CONCEPTS_PER_ROW = 32
_ROW_OVERHEAD_BYTES = 64  # provenance, stamp and Arrow offsets


class BatchPlan(Section):
    """Global batch = workers x worker batch; worker batch = micro batches x micro batch."""

    global_size: int
    worker_size: int
    micro_size: int
    num_micro: int


class WorkersPlan(Section):
    """Training workers, one per device."""

    count: int
    accelerator: Literal["cpu", "cuda"]
    cpus: int
    threads: int
    admissible: tuple[int, ...]
    """Other worker counts that a resume may use: they divide the global batch."""


class StreamPlan(Section):
    """How blocks of one micro batch reach the workers."""

    block_bytes: int
    blocks_per_task: int
    ingest_cpus: int
    object_store_bytes: int
    window: int
    """Samples that are mixed with one another (data/order.py)."""
    max_concepts_per_row: int = _CONCEPTS_PER_ROW


class DataPlan(Section):
    """The training data as the stream sees it."""

    spec: ShardsSpec | SyntheticSpec
    train: ShardsFacts | None
    heldout: ShardsFacts | None
    num_samples: int
    """Samples of one epoch."""
    decoder: str


class ModelPlan(Section):
    """The towers' sizes and the text they read."""

    preset: str
    image_size: int
    activation_checkpointing: bool
    context: int
    trained_tokenizer_size: int
    tokenizer: TokenizerFacts | None
    vocabulary: VocabularyFacts | None


class TrackingPlan(Section):
    """Where the run is recorded."""

    uri: str
    experiment: str


class Plan(Section):
    """A pretrain job, resolved: everything that a worker, a resume or a reviewer needs to know."""

    kind: Literal["pretrain"] = "pretrain"
    name: str
    run_uri: str
    """The run's folder: plan, lease, journal, checkpoints."""
    seed: SeedSpec
    objective: ObjectiveSpec
    data: DataPlan
    model: ModelPlan
    batch: BatchPlan
    workers: WorkersPlan
    machine: MachineFacts
    stream: StreamPlan
    steps: int
    """Optimizer steps of the whole run."""
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    precision: Literal["fp32", "bf16", "fp16"]
    zero_stage: Literal[0, 1, 2, 3]
    ema: EmaSpec | None
    checkpoint: CheckpointSpec
    evaluation: EvaluationSpec
    evaluation_uris: tuple[str, ...]
    faults: FaultsSpec
    log_every_steps: int
    s3: S3Spec
    tracking: TrackingPlan

    @property
    def samples(self) -> int:
        """Samples that the whole run trains on."""
        return self.steps * self.batch.global_size

    @property
    def epochs(self) -> float:
        """Passes over the training data."""
        return self.samples / self.data.num_samples

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same in a resume; all else (workers, cluster, micro batch, ZeRO stage) may change."""
        shards = self.data.spec if isinstance(self.data.spec, ShardsSpec) else None
        return {
            "data": self.data.train.digest if self.data.train else self.data.spec.model_dump(mode="json"),
            "data.augmentation": (shards.augmentation if shards else AugmentationSpec()).model_dump(mode="json"),
            "data.caption_fields": list(shards.caption_fields) if shards else [],
            "data.decoder": self.data.decoder,
            "seed": self.seed.model_dump(mode="json"),
            "window": self.stream.window,
            "batch.global_size": self.batch.global_size,
            "steps": self.steps,
            "objective": self.objective.model_dump(mode="json", exclude={"vocabulary"}),
            "vocabulary": self.model.vocabulary.digest if self.model.vocabulary else None,
            "model.preset": self.model.preset,
            "model.image_size": self.model.image_size,
            "text.context": self.model.context,
            "tokenizer": self.model.tokenizer.digest if self.model.tokenizer else None,
            "optimizer": self.optimizer.model_dump(mode="json"),
            "schedule": self.schedule.model_dump(mode="json"),
            "precision": self.precision,
            "ema": self.ema.model_dump(mode="json") if self.ema else None,
        }

    @property
    def identity_digest(self) -> str:
        """Short name of :attr:`identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]


def resolve_plan(job: PretrainSpec, cluster: ClusterSpec, facts: Facts) -> Plan:
    """Resolve a job for a cluster.

    Raises:
        PlanError: the two do not fit together; the message says the arithmetic and what to change.
    """
    num_samples = _num_samples(job, cluster, facts)
    workers = _resolve_workers(job, cluster, facts.machine)
    batch = _resolve_batch(job, workers.count)
    image_size = job.model.image_size or PRESETS[job.model.preset].image_size
    _check_patches(job, image_size)
    _check_precision(job, workers)
    return Plan(
        name=job.name,
        run_uri=join_uri(cluster.storage.runs, job.name),
        seed=job.seed,
        objective=job.objective,
        data=DataPlan(
            spec=job.data,
            train=facts.train,
            heldout=facts.heldout,
            num_samples=num_samples,
            decoder=facts.machine.decoder,
        ),
        model=ModelPlan(
            preset=job.model.preset,
            image_size=image_size,
            activation_checkpointing=job.model.activation_checkpointing,
            context=job.text.context,
            trained_tokenizer_size=job.text.trained_size,
            tokenizer=facts.tokenizer,
            vocabulary=facts.vocabulary,
        ),
        batch=batch,
        workers=workers,
        machine=facts.machine,
        stream=_resolve_stream(job, cluster, facts.machine, workers, batch, image_size),
        steps=_resolve_steps(job, num_samples),
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
        PlanError: the runs folder is a bucket, which holds no database, and no server is named.
    """
    if cluster.tracking.uri is not None:
        return cluster.tracking.uri
    if not cluster.storage.runs.startswith("file://"):
        raise PlanError(
            f"storage.runs is {cluster.storage.runs}, which cannot hold MLflow's database; "
            f"set tracking.uri in the cluster file to a tracking server or a sqlite file"
        )
    folder = unquote(cluster.storage.runs.removeprefix("file://")).rstrip("/")
    return f"sqlite:///{folder}/mlflow.db"


def load_plan(text: str, source: str) -> Plan:
    """Read back a Plan that was written with ``model_dump_json``.

    Raises:
        PlanError: ``text`` is no Plan of this version; names ``source``.
    """
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(
            f"{source}: not a plan of this version: {where}: {first['msg']}; use another run name"
        ) from error


def compare_identities(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """One line per difference, as ``key: theirs -> ours``."""
    keys = sorted(ours.keys() | theirs.keys())
    return [f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}" for key in keys if ours.get(key) != theirs.get(key)]


def _num_samples(job: PretrainSpec, cluster: ClusterSpec, facts: Facts) -> int:
    if isinstance(job.data, SyntheticSpec):
        return job.data.num_samples
    if facts.train is None:
        uri = join_uri(cluster.storage.data, job.data.train)
        raise PlanError(f"data.train: {uri} has no index; run: orchestrator data index {uri}")
    if facts.train.num_samples < job.batch.global_size:
        raise PlanError(
            f"batch.global_size is {job.batch.global_size:,}, but {facts.train.uri} holds "
            f"{facts.train.num_samples:,} samples; wanted at least one global batch"
        )
    return facts.train.num_samples


def _resolve_workers(job: PretrainSpec, cluster: ClusterSpec, machine: MachineFacts) -> WorkersPlan:
    offered = cluster.workers.count
    count = job.workers or offered
    if count > offered:
        raise PlanError(
            f"workers is {count}, but cluster '{cluster.name}' offers {offered}; "
            f"lower 'workers' in the job or raise 'workers.count' in the cluster file"
        )
    global_size = job.batch.global_size
    admissible = tuple(number for number in range(1, min(global_size, 1024) + 1) if global_size % number == 0)
    if global_size % count:
        near = max(number for number in admissible if number <= offered)
        lower, upper = global_size // count * count, (global_size // count + 1) * count
        fitting = f"{lower:,} or {upper:,}" if lower else f"{upper:,}"
        raise PlanError(
            f"batch.global_size {global_size:,} does not divide by {count} workers; use {fitting}, or workers: {near}"
        )
    threads = cluster.workers.threads or max(1, machine.num_cores // count)
    return WorkersPlan(
        count=count,
        accelerator=cluster.workers.accelerator,
        cpus=cluster.workers.cpus,
        threads=threads,
        admissible=admissible,
    )


def _resolve_batch(job: PretrainSpec, num_workers: int) -> BatchPlan:
    worker_size = job.batch.global_size // num_workers
    micro_size = job.batch.micro_size or worker_size
    if worker_size % micro_size:
        divisors = [size for size in range(1, worker_size + 1) if worker_size % size == 0]
        near = min(divisors, key=lambda size: abs(size - micro_size))
        raise PlanError(
            f"batch.micro_size {micro_size} does not divide the worker batch of {worker_size} "
            f"({job.batch.global_size} over {num_workers} workers); the nearest that does is {near}"
        )
    num_micro = worker_size // micro_size
    if num_micro > 1 and job.objective.name == "clip":
        raise PlanError(
            f"batch.micro_size {micro_size} makes {num_micro} micro batches a step, and plain accumulation would "
            f"shrink the negatives of objective 'clip' to {micro_size * num_workers}; leave batch.micro_size out "
            f"or lower batch.global_size"
        )
    return BatchPlan(
        global_size=job.batch.global_size, worker_size=worker_size, micro_size=micro_size, num_micro=num_micro
    )


def _check_patches(job: PretrainSpec, image_size: int) -> None:
    patch = PRESETS[job.model.preset].patch_size
    if image_size % patch:
        near = max(1, round(image_size / patch)) * patch
        raise PlanError(
            f"model.image_size {image_size} does not divide into the {patch} pixel patches of "
            f"{job.model.preset}; the nearest that does is {near}"
        )


def _check_precision(job: PretrainSpec, workers: WorkersPlan) -> None:
    if job.precision == "fp16" and workers.accelerator != "cuda":
        raise PlanError("precision 'fp16' needs CUDA workers (loss scaling); use 'bf16' or 'fp32' here")


def _resolve_stream(
    job: PretrainSpec,
    cluster: ClusterSpec,
    machine: MachineFacts,
    workers: WorkersPlan,
    batch: BatchPlan,
    image_size: int,
) -> StreamPlan:
    row_bytes = 3 * image_size**2 + 4 * max(job.text.context, _CONCEPTS_PER_ROW) + _ROW_OVERHEAD_BYTES
    block_bytes = batch.micro_size * row_bytes
    if block_bytes > MAX_BLOCK_BYTES:
        raise PlanError(
            f"a micro batch of {batch.micro_size} images of {image_size} pixels is {block_bytes / 2**20:.0f} MiB; "
            f"a block holds at most {MAX_BLOCK_BYTES // 2**20} MiB: use more workers, or a smaller batch.micro_size"
        )
    ingest_cpus = machine.num_cpus - workers.count * workers.cpus
    if ingest_cpus < 1:
        raise PlanError(
            f"{workers.count} workers x {workers.cpus} CPUs take all {machine.num_cpus} logical CPUs and leave none "
            f"to read and decode; lower 'workers' or raise 'ray.num_cpus' in the cluster file"
        )
    needed = STORE_BLOCKS_PER_WORKER * workers.count * block_bytes
    if needed > cluster.ray.object_store_bytes:
        raise PlanError(
            f"the stream needs an object store of {needed / 2**20:.0f} MiB ({STORE_BLOCKS_PER_WORKER} blocks x "
            f"{workers.count} workers x {block_bytes / 2**20:.1f} MiB), the cluster gives "
            f"{cluster.ray.object_store_bytes / 2**20:.0f} MiB; raise 'ray.object_store_bytes' or lower the batch"
        )
    window = _resolve_window(job)
    blocks_per_task = min(MAX_BLOCKS_PER_TASK, max(MIN_BLOCKS_PER_TASK, window // batch.micro_size))
    return StreamPlan(
        block_bytes=block_bytes,
        blocks_per_task=blocks_per_task,
        ingest_cpus=ingest_cpus,
        object_store_bytes=needed,
        window=window,
    )


def _resolve_window(job: PretrainSpec) -> int:
    """The window nearest above the wish that tiles global batches, so that tasks and windows share borders."""
    wish = job.data.shuffle_window if isinstance(job.data, ShardsSpec) else job.batch.global_size
    global_size = job.batch.global_size
    if wish >= global_size:
        return math.ceil(wish / global_size) * global_size
    return next(size for size in range(wish, global_size + 1) if global_size % size == 0)


def _resolve_steps(job: PretrainSpec, num_samples: int) -> int:
    if job.budget.steps is not None:
        return job.budget.steps
    samples = job.budget.samples if job.budget.samples is not None else (job.budget.epochs or 0) * num_samples
    return max(1, math.ceil(samples / job.batch.global_size))
