"""The Plan: a job resolved for a cluster (``resolve.py`` does that).

Only the Plan travels: to workers, into MLflow, into checkpoints.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from pydantic import Field, ValidationError

from orchestrator.errors import PlanError
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.batches import Batches
from orchestrator.spec.checkpoint import CheckpointSpec, FaultsSpec
from orchestrator.spec.cluster import CacheSpec, S3Spec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.facts import MachineFacts, ShardsFacts, TokenizerFacts, VocabularyFacts
from orchestrator.spec.init import InitSpec, StartSpec
from orchestrator.spec.job import SeedSpec, ShardsSpec, SyntheticSpec
from orchestrator.spec.objective import ObjectiveSpec
from orchestrator.spec.optimizer import EmaSpec, OptimizerSpec, ScheduleSpec
from orchestrator.spec.resolution import ImageSizes, SizePhase
from orchestrator.spec.section import Section

PLAN_FILE = "plan.json"
"""Its name, in the run's folder."""

# Where labels and what makes them come from; the vocabulary's digest says whether they are the same.
_SAME_LABELS = {"vocabulary", "foreign_vocabulary", "labels", "noun_table", "tagger"}


class BatchPlan(Batches):
    """Global batch = workers x worker batch; worker batch = micro batches x micro batch."""

    worker_size: int
    """Of a step of ``global_size``."""
    micro_size: int
    """Of all steps."""
    num_micro: int
    """Of a step of ``global_size``."""

    @property
    def most_micro(self) -> int:
        """Micro batches of the largest step."""
        return self.num_micro * self.all_sizes[-1] // self.global_size


class WorkersPlan(Section):
    """Training workers, one per device."""

    count: int
    accelerator: Literal["cpu", "cuda"]
    cpus: int
    threads: int
    admissible: tuple[int, ...]
    """Other worker counts that a resume may use: they divide every global batch."""


@dataclass(frozen=True)
class StepPhase:
    """Steps [start, stop), each of which has one of the sizes."""

    start: int
    stop: int
    samples: int
    sizes: tuple[tuple[int, int], ...]
    """Pixels a side and samples of a step that go together."""


MAX_UNREAD_BLOCKS = 4
"""Blocks that a read task makes before the first of them is taken over."""


class StreamPlan(Section):
    """How blocks of one micro batch reach the workers."""

    block_bytes: int
    blocks_per_task: int
    """At most; a read task makes what a node gets of one window, or an even part of it."""
    num_nodes: int = 1
    """Nodes of workers, each with a stream of its own, as far as the cluster file tells."""
    tasks_per_execution: int
    """Of one node; the stream is a chain of executions."""
    ingest_cpus: int
    queued_tasks: int = 1
    """Of a node, beyond those that have a CPU: ready when one comes free. None where CPUs beyond are another run's."""
    ingest_labels: dict[str, str] = Field(default_factory=dict)
    """Of the nodes that read and decode; none: each worker's own."""
    object_store_bytes: int
    window: int
    """Samples that are mixed with one another (data/order.py)."""
    cache: CacheSpec | None = None
    max_concepts_per_row: int


class SourcePlan(Section):
    """One data set of the mixture."""

    shards: ShardsFacts
    weight: int
    """Its share, to a scale that all sources have in common."""
    with_replacement: bool = False


class DataPlan(Section):
    """The training data as the stream sees it."""

    spec: ShardsSpec | SyntheticSpec
    sources: tuple[SourcePlan, ...]
    """None for synthetic data."""
    heldout: ShardsFacts | None
    num_samples: int
    """Samples of one epoch."""
    decoder: str
    annotations: tuple[AnnotationPlan, ...] = ()
    """Joined to the samples where they are decoded."""


class ModelPlan(Section):
    """The towers' sizes and the text they read."""

    preset: str
    variant: str = "clip"
    image_size: int
    image_sizes: ImageSizes
    """Of each step, where phases of the run have others."""
    patch_dropout: float
    attention: Literal["sdpa", "eager"]
    compile: bool
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
    init: InitSpec | None = None
    """Where a run's name stood, its URI."""
    start: StartSpec | None = None
    """Likewise."""
    batch: BatchPlan
    workers: WorkersPlan
    machine: MachineFacts
    stream: StreamPlan
    steps: int
    """Optimizer steps up to the end of the schedule, those of the run that it starts from included."""
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    precision: Literal["fp32", "bf16", "fp16"]
    zero_stage: Literal[0, 1, 2, 3]
    ema: EmaSpec | None
    checkpoint: CheckpointSpec
    evaluation: EvaluationSpec
    evaluation_uris: tuple[str, ...]
    evaluation_vocabulary: VocabularyFacts | None = None
    """Scores are also given for classes that it holds and for those that it does not; a comparison gives one to all its
    runs. None: the model's own."""
    faults: FaultsSpec
    log_every_steps: int
    s3: S3Spec
    tracking: TrackingPlan
    origin: str | None = None
    """Where the weights come from, of a run that was imported or averaged; none: it is trained."""

    @property
    def samples(self) -> int:
        """Samples that the whole run trains on; what it starts from has seen others before."""
        return self.batch.start(self.steps) - self.batch.start(self.first_step)

    @property
    def first_step(self) -> int:
        """The first that it trains, from 0."""
        return 0 if self.start is None else self.start.step

    @property
    def own_steps(self) -> int:
        """That it trains itself."""
        return self.steps - self.first_step

    @property
    def phases(self) -> tuple[StepPhase, ...]:
        """The parts of what it trains itself, one behind the other; empty ones are left out."""
        image_sizes, batch = self.model.image_sizes, self.batch
        last = SizePhase(stop_step=self.steps, image_sizes=(image_sizes.final,))
        found, start = [], self.first_step
        for number, phase in enumerate((*image_sizes.phases, last)):
            if phase.stop_step > start:
                own = batch.phases[number].global_sizes if number < len(batch.phases) else ()
                sizes = tuple(zip_longest(phase.image_sizes, own, fillvalue=batch.global_size))
                samples = batch.start(phase.stop_step) - batch.start(start)
                found.append(StepPhase(start, phase.stop_step, samples, sizes))
                start = phase.stop_step
        return tuple(found)

    @property
    def epochs(self) -> float:
        """Passes over the training data."""
        return self.samples / self.data.num_samples

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same in a resume; all else (workers, cluster, micro batch, ZeRO stage) may change."""
        shards = self.data.spec if isinstance(self.data.spec, ShardsSpec) else None
        own_sizes = [phase.model_dump(mode="json") for phase in self.batch.phases]
        return {
            "data": [
                {
                    "digest": source.shards.digest,
                    "selection": source.shards.selection,
                    "weight": source.weight,
                    "with_replacement": source.with_replacement,
                }
                for source in self.data.sources
            ]
            or self.data.spec.model_dump(mode="json"),
            "data.annotations": [
                plan.model_dump(mode="json", exclude={"folder", "heldout"}) for plan in self.data.annotations
            ]
            or None,
            "data.augmentation": (shards.augmentation if shards else AugmentationSpec()).model_dump(mode="json"),
            "data.caption_fields": list(shards.caption_fields) if shards else [],
            "data.caption_weights": dict(shards.caption_weights) if shards else {},
            "data.captions_per_image": shards.captions_per_image if shards else 1,
            "data.decoder": self.data.decoder,
            "data.decode": shards.decode if shards else None,
            "data.image_fields": list(shards.image_fields) if shards else [],
            "data.max_image_pixels": shards.max_image_pixels if shards else None,
            "seed": self.seed.model_dump(mode="json"),
            "order": 2,  # of data/order.py; another one would give the rest of a run other samples
            "window": self.stream.window,
            "batch.global_size": self.batch.global_size,
            **({"model.resolutions: global_sizes": own_sizes} if own_sizes else {}),
            "steps": self.steps,
            "objective": self.objective.model_dump(mode="json", exclude=_SAME_LABELS),
            "vocabulary": self.model.vocabulary.digest if self.model.vocabulary else None,
            "model.preset": self.model.preset,
            "model.variant": self.model.variant,
            "model.image_size": self.model.image_size,
            "init": self.init.model_dump(mode="json") if self.init else None,
            "start": self.start.model_dump(mode="json") if self.start else None,
            "model.resolutions": self.model.image_sizes.model_dump(mode="json"),
            "model.patch_dropout": self.model.patch_dropout,
            "text.context": self.model.context,
            "tokenizer": self.model.tokenizer.digest if self.model.tokenizer else None,
            "optimizer": self.optimizer.model_dump(mode="json"),
            "schedule": self.schedule.model_dump(mode="json"),
            "precision": self.precision,
            "ema": self.ema.model_dump(mode="json") if self.ema else None,
            "origin": self.origin,
        }

    @property
    def identity_digest(self) -> str:
        """Short name of :attr:`identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]


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
        if (where, first["input"]) == ("kind", "compare"):
            raise PlanError(
                f"{source} is the plan of a comparison; take one of its runs, which lie beside it ('orchestrator "
                f"runs' lists them), or another name for a new run"
            ) from error
        raise PlanError(
            f"{source}: not a plan of this version: {where}: {first['msg']}; use another run name"
        ) from error
