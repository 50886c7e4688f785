"""What to run: the sections of a job file. Nothing here says where it runs (that is ``spec/cluster.py``)."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.checkpoint import CheckpointSpec, FaultsSpec
from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.init import InitSpec, StartSpec
from orchestrator.spec.objective import ConceptsSpec, ObjectiveSpec
from orchestrator.spec.optimizer import EmaSpec, OptimizerSpec, ScheduleSpec
from orchestrator.spec.resolution import ResolutionPhase
from orchestrator.spec.section import Section
from orchestrator.spec.selection import SelectionSpec

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Experiment = Annotated[str, Field(min_length=1, max_length=200)]  # MLflow takes 500; beside SQLite it names a folder


class SeedSpec(Section):
    """Two seeds, apart: the same data order can be shown to differently initialised models."""

    data: int = Field(default=0, ge=0, lt=2**31)
    """Order of the samples, crops, flips and the choice among captions."""
    model: int = Field(default=0, ge=0, lt=2**31)
    """Initial weights and dropout."""


class SourceSpec(Section):
    """One of the data sets that a job trains on, and its share of the samples."""

    uri: str
    """Folder of training shards: a URI, or a path below the cluster's ``storage.data``."""
    weight: float | None = Field(default=None, gt=0)
    """Share relative to the other sources' weights; none: as many as it has samples."""
    proportion: float | None = Field(default=None, gt=0, le=1)
    """Share of all samples; those of all sources add up to 1. Kept exactly, in every window of the shuffle."""
    with_replacement: bool = False
    """Draw rounds of a sixteenth of its samples, each from all of them, instead of every sample once an epoch."""
    select: SelectionSpec | None = None
    """Which of its samples are trained on; none: all."""


class ShardsSpec(Section):
    """Image-text shards in a folder or bucket."""

    kind: Literal["shards"]
    train: str | tuple[SourceSpec, ...]
    """Folder of training shards (a URI, or a path below the cluster's ``storage.data``), or several sources."""
    epoch_samples: int | None = Field(default=None, ge=1)
    """What ``budget.epochs`` counts; none: all samples of all sources, each of which keeps epochs of its own."""
    heldout: str | None = None
    """Folder of shards for the held-out loss; none: no held-out loss."""
    image_fields: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Tar member extensions (or Parquet columns) that may hold the image; the first that is there counts."""
    caption_fields: tuple[str, ...] = ("txt",)
    """Tar member extensions (or Parquet columns) that hold captions; ``captions_per_image`` of them are drawn."""
    caption_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """How often each of the caption fields is drawn, relative to the others that a sample has; 1 where not named."""
    annotations: dict[str, Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]] = Field(default_factory=dict)
    """Folder below ``_orchestrator`` of annotations that the objective reads, by the objective's word for each; one
    that is not named here lies in the folder of that name."""
    captions_per_image: int = Field(default=1, ge=1, le=64)
    """Captions that go along with an image, none twice, as its positives; too few are repeated, and counted."""
    augmentation: AugmentationSpec = AugmentationSpec()
    decode: Literal["fast", "exact"] = "fast"
    """``exact``: crops as Pillow's antialiased bicubic filter makes them of the whole image, to a grey level;
    ``fast``: JPEGs are read at a fraction of their size, down to half of the pixels a side that the crop gets, and no
    further than to its bottom (docs/data.md has the measured price). Held-out and evaluation images are always exact.
    """
    max_image_pixels: int = Field(default=89_478_485, ge=1)
    """Larger images are skipped and counted: a decompression bomb takes a worker down (Pillow's own limit)."""
    max_skipped_fraction: float = Field(default=0.01, ge=0, le=1)
    """The run stops by name once a greater share of its samples had to be skipped."""
    shuffle_window: int = Field(default=2048, ge=1)
    """Samples that are mixed with one another, gathered from chunks of many shards (data/order.py).

    Rounded up to whole global batches, of which a single source has as many; what a node gets of it should fit into one
    read task (``plan`` says if not).
    """

    @property
    def sources(self) -> tuple[SourceSpec, ...]:
        """What is trained on, in either form of ``train``."""
        return (SourceSpec(uri=self.train),) if isinstance(self.train, str) else self.train

    @property
    def drawn_fields(self) -> tuple[str, ...]:
        """Caption fields that can be drawn at all."""
        return tuple(field for field in self.caption_fields if self.caption_weights.get(field, 1.0) > 0)

    @model_validator(mode="after")
    def _captions(self) -> "ShardsSpec":
        if self.captions_per_image > len(self.caption_fields):
            fields = ", ".join(self.caption_fields)
            raise ValueError(f"captions_per_image is {self.captions_per_image}; caption_fields has only {fields}")
        for field in self.caption_weights:
            if field not in self.caption_fields:
                raise ValueError(
                    f"caption_weights names '{field}'; caption_fields has {', '.join(self.caption_fields)}"
                )
        return self

    @model_validator(mode="after")
    def _shares(self) -> "ShardsSpec":
        if not self.sources:
            raise ValueError("train names no source; wanted a folder of shards, or a list of sources")
        for key in ("weight", "proportion"):
            given = [getattr(source, key) for source in self.sources]
            if any(share is not None for share in given) and None in given:
                without = self.sources[given.index(None)].uri
                raise ValueError(f"source {without} has no {key}, but others have; give one to all or to none")
        proportions = [source.proportion for source in self.sources if source.proportion is not None]
        if proportions and any(source.weight is not None for source in self.sources):
            raise ValueError("sources have both weight and proportion; give one of them")
        if proportions and not math.isclose(sum(proportions), 1, abs_tol=1e-9):
            raise ValueError(f"the proportions of the sources add up to {sum(proportions):g}; wanted 1")
        return self


class SyntheticSpec(Section):
    """Random images and tokens made on the fly: tells the loader's limit from the device's."""

    kind: Literal["synthetic"]
    num_samples: int = Field(default=1_000_000, ge=1)
    """Samples of an epoch."""


DataSpec = Annotated[ShardsSpec | SyntheticSpec, Field(discriminator="kind")]


class ModelSpec(Section):
    """Towers by preset name; their weights start at random or from a folder."""

    preset: Literal[
        "vit_nano_32",
        "vit_tiny_64",
        "vit_s16",
        "vit_b32",
        "vit_b16",
        "vit_l14",
        "vit_l16",
        "vit_h14",
        "vit_h16",
        "siglip_b32",
        "siglip_b16",
        "siglip_l16",
        "siglip_so400m14",
        "siglip_so400m16",
    ]
    """Sizes of the towers (spec/presets.py)."""
    variant: Literal["clip", "openai", "corenet", "siglip"] = "clip"
    """Whose towers of that size: open_clip's; those of the released CLIP weights (quick GELU); corenet's vision tower
    (a stem of three convolutions, pixels in [0, 1]); SigLIP's (tanh GELU, pixels in [-1, 1]), for objective ``siglip``
    with its own towers. Weights of one variant make no sense in another."""
    image_size: int | None = Field(default=None, ge=8, le=2048)
    """Pixels a side; none: the preset's own."""
    resolutions: tuple[ResolutionPhase, ...] = ()
    """Other sizes to train at; after the last phase, and in evaluation, it is ``image_size``."""
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an image's patches that are left out in training (arXiv 2212.00794); the class token stays."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """torch's fused attention, or plain matrix products."""
    compile: bool = False
    """Compile the towers' layers with torch.compile; needs a C++ compiler on the workers, and ZeRO 0 to 2."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _rising_phases(self) -> "ModelSpec":
        ends = [phase.until_fraction for phase in self.resolutions]
        if ends != sorted(set(ends)):
            raise ValueError(f"the phases of resolutions end at {ends}; wanted rising shares of the budget")
        return self


class TextSpec(Section):
    """How captions become tokens."""

    tokenizer: str | None = None
    """A Hugging Face tokenizer folder or hub name, or the URI of one that another run trained (``.json``); none: byte
    pairs trained on the training captions."""
    trained_size: int = Field(default=4096, ge=300, le=200_000)
    """Most tokens of the tokenizer that is trained when none is named."""
    context: int = Field(default=77, ge=4, le=1024)
    """Tokens of a caption, begin and end included; what is longer is cut and keeps its end token."""


class BatchSpec(Section):
    """Samples per optimizer step, over all workers and per forward pass."""

    global_size: int = Field(ge=1)
    """Samples of one step over all workers; phases of ``model.resolutions`` may have others."""
    micro_size: int | None = Field(default=None, ge=1)
    """Samples of one forward pass on one worker, the same in all steps; none: the whole worker batch, or the greatest
    part that all of them have in common. The step stays that of the whole batch: for contrastive objectives features
    are cached, at the price of a second forward pass."""


class BudgetSpec(Section):
    """How long to train; exactly one."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""
    samples: int | None = Field(default=None, ge=1)
    """Samples over all workers, rounded up to whole steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training data, rounded up to whole steps."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "BudgetSpec":
        keys = type(self).model_fields
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"wanted exactly one of {', '.join(keys)}; given: {given or 'none'}")
        return self


class TrainingSpec(Section):
    """What a run is trained on and how, whatever its objective: what the runs of a comparison share."""

    data: DataSpec
    model: ModelSpec
    init: InitSpec | None = None
    text: TextSpec = TextSpec()
    batch: BatchSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = ScheduleSpec()
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """fp16 needs CUDA (loss scaling)."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO: what is spread over workers (1 optimizer state, 2 gradients, 3 weights too)."""
    ema: EmaSpec | None = None
    workers: int | None = Field(default=None, ge=1)
    """Workers to use; none: all that the cluster offers."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    faults: FaultsSpec = FaultsSpec()
    log_every_steps: int = Field(default=10, ge=1)
    """Steps between the metrics that are recorded."""

    def global_sizes(self) -> Iterator[tuple[str, int]]:
        """Every size of a global batch that is named, with its key."""
        yield "batch.global_size", self.batch.global_size
        for number, phase in enumerate(self.model.resolutions):
            yield from ((f"model.resolutions.{number}.global_sizes", size) for size in phase.global_sizes)


class PretrainSpec(TrainingSpec):
    """A job that trains a model with one objective."""

    kind: Literal["pretrain"]
    name: Name
    """The run's name: 1 to 63 small letters, digits, ``.``, ``_`` and ``-``, the first no sign. Running the same name
    again goes on with the same run."""
    experiment: Experiment = "vl-orchestrator"
    """MLflow experiment that holds the run; a name of 1 to 200 characters."""
    seed: SeedSpec = SeedSpec()
    objective: ObjectiveSpec
    budget: BudgetSpec
    """With ``start``, what was trained before counts too: it is what the weights have seen in the end."""
    start: StartSpec | None = None
    """Go on from a checkpoint of another run; none: from the first sample."""

    @model_validator(mode="after")
    def _one_beginning(self) -> "PretrainSpec":
        if self.start is not None and self.init is not None:
            raise ValueError("both start and init are given; weights come from one of them: leave the other out")
        return self


class EvaluateSpec(Section):
    """A job that judges a run's checkpoint again."""

    kind: Literal["evaluate"]
    name: Name
    """The job's name in messages; the verdicts are recorded with the run that is judged."""
    run: Name
    """Name of the pretrain run whose last checkpoint is judged."""
    evaluation: EvaluationSpec
    workers: int | None = Field(default=None, ge=1)
    """Ranks that read, encode and fit; none: as many as the cluster offers."""


class PrepareSpec(Section):
    """A job that looks at all training samples ahead of training: the concepts of their captions, counted and kept."""

    kind: Literal["prepare"]
    name: Name
    """The job's name in messages; what it makes lies beside the shards, where runs find it."""
    data: ShardsSpec
    concepts: ConceptsSpec
    store_labels: bool = True
    """Keep the concepts of every caption beside the shards, for runs with ``labels: stored`` and for a second start;
    off: the captions are read twice, and only the vocabulary is kept."""
