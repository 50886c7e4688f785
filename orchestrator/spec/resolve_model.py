"""The model's part of a Plan: sizes of its images through the run, and what towers cannot do."""

import math
from collections.abc import Collection, Sequence

from orchestrator.errors import PlanError
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.batches import Batches
from orchestrator.spec.facts import Facts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.objective import CatlipSpec, SiglipSpec
from orchestrator.spec.optimizer import Tower
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.resolution import ImageSizes, SizePhase


def resolve_model(job: PretrainSpec, facts: Facts, batches: Batches, steps: int) -> ModelPlan:
    """Resolve the model of a run of ``steps``, whose phases end at the same steps for images and batches.

    Raises:
        PlanError: an image size that the patches do not divide, a tower that the objective does not have, or settings
            that do not go together.
    """
    _check_towers(job)
    _check_variant(job)
    _check_compile(job)
    _check_frozen_layers(job)
    image_sizes = _resolve_image_sizes(job, batches, steps)
    return ModelPlan(
        preset=job.model.preset,
        variant=job.model.variant,
        image_size=image_sizes.final,
        image_sizes=image_sizes,
        patch_dropout=job.model.patch_dropout,
        attention=job.model.attention,
        compile=job.model.compile,
        activation_checkpointing=job.model.activation_checkpointing,
        context=job.text.context,
        trained_tokenizer_size=job.text.trained_size,
        tokenizer=facts.tokenizer,
        vocabulary=facts.vocabulary,
    )


def check_dense_annotations(model: ModelPlan, annotations: Sequence[AnnotationPlan]) -> None:
    """Raises PlanError for annotations that have a value for each pixel, where images change their size."""
    dense = [annotation.name for annotation in annotations if annotation.row_bytes(1) != annotation.row_bytes(2)]
    if dense and model.image_sizes.phases:
        raise PlanError(
            f"model.resolutions does not go together with the dense annotation {dense[0]} (data.annotations), which "
            f"is read at one size; leave one of them out"
        )


def _resolve_image_sizes(job: PretrainSpec, batches: Batches, steps: int) -> ImageSizes:
    preset = PRESETS[job.model.preset]
    stops = [math.ceil(phase.until_fraction * steps) for phase in job.model.resolutions]
    if batches.phases:
        stops = [min(batches.steps_to(phase.stop_sample), steps) for phase in batches.phases]
    phases = tuple(
        SizePhase(stop_step=stop, image_sizes=phase.image_sizes)
        for stop, phase in zip(stops, job.model.resolutions, strict=True)
    )
    sizes = ImageSizes(final=job.model.image_size or preset.image_size, phases=phases, seed=job.seed.data)
    for size in sizes.all:
        if size % preset.patch_size:
            key = "model.image_size" if size == sizes.final else "model.resolutions:"
            near = max(1, round(size / preset.patch_size)) * preset.patch_size
            raise PlanError(
                f"{key} {size} does not divide into the {preset.patch_size} pixel patches of "
                f"{job.model.preset}; the nearest that does is {near}"
            )
    return sizes


def _check_towers(job: PretrainSpec) -> None:
    """Of objectives of other packages only the workers know the towers."""
    if not isinstance(job.objective, CatlipSpec):
        return
    named: dict[str, Collection[Tower]] = {
        "optimizer.freeze": job.optimizer.freeze,
        "optimizer.layer_decay": job.optimizer.layer_decay,
        "init.towers": (job.init and job.init.towers) or (),
    }
    for key, towers in named.items():
        if "text" in towers:
            raise PlanError(
                f"{key} names the tower 'text', but objective {job.objective.name} has 'vision' alone; leave it out"
            )


def _check_variant(job: PretrainSpec) -> None:
    has_siglip_towers = isinstance(job.objective, SiglipSpec) and job.objective.towers == "siglip"
    if has_siglip_towers and job.model.variant == "corenet":
        raise PlanError(
            "model.variant 'corenet' has a stem of convolutions, which SigLIP's towers do not; "
            "set model.variant: siglip, or objective.towers: clip"
        )
    if job.model.variant == "siglip" and not has_siglip_towers:
        raise PlanError(
            f"model.variant 'siglip' is of SigLIP's own towers, but objective {job.objective.name} trains CLIP's here; "
            f"set model.variant: clip, or objective siglip with towers: siglip"
        )


def _check_compile(job: PretrainSpec) -> None:
    if job.model.compile and job.zero_stage == 3:
        raise PlanError(
            "model.compile does not go together with zero_stage 3, which fetches weights inside of each layer; "
            "use zero_stage 2, or leave model.compile out"
        )


def _check_frozen_layers(job: PretrainSpec) -> None:
    preset = PRESETS[job.model.preset]
    for tower, freeze in job.optimizer.freeze.items():
        num_layers = (preset.vision if tower == "vision" else preset.text).num_layers
        if freeze.layers is not None and freeze.layers > num_layers:
            raise PlanError(
                f"optimizer.freeze.{tower}.layers is {freeze.layers}, but that tower of {job.model.preset} has "
                f"{num_layers} layers; leave 'layers' out to freeze the whole tower"
            )
