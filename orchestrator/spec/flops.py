"""Arithmetic of the towers, counted from their sizes: what a device must do at least for one sample.

A multiplication and an addition are two operations. Matrix products only; norms, activations and softmax are left
out, as is the usual practice. Training is the forward pass, and twice as much backward for what is trained. What is
computed again to save memory is no progress: budgets and curves do not count it, times that are estimated do.
"""

from collections.abc import Iterator

from orchestrator.spec.memory import captions_per_image
from orchestrator.spec.parameters import Parameters, count_parameters, freeze_of, num_concepts
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS, ModelSize, TransformerSize


def training_flops(plan: Plan, *, recomputed: bool = False) -> float:
    """Operations of training on one sample, the mean over the run's samples.

    Args:
        recomputed: count forward passes that are done again, too.
    """
    return sum(samples * flops for samples, flops in phase_flops(plan, recomputed=recomputed)) / plan.samples


def phase_flops(plan: Plan, *, recomputed: bool) -> Iterator[tuple[int, float]]:
    """Samples of each phase of image sizes, and the operations that train one of them; as ``training_flops``."""
    parameters = count_parameters(plan)
    for phase in plan.phases:
        flops = [_sample_flops(plan, parameters, *sizes, recomputed) for sizes in phase.sizes]
        drawn = sum(global_size for _, global_size in phase.sizes)
        mean = sum(global_size * one for (_, global_size), one in zip(phase.sizes, flops, strict=True)) / drawn
        yield phase.samples, mean


def _sample_flops(plan: Plan, parameters: Parameters, pixels: int, global_size: int, recomputed: bool) -> float:
    model, objective, size = plan.model, plan.objective, PRESETS[plan.model.preset]
    forward = {"vision": vision_flops(size, pixels, objective.reads_captions, model.patch_dropout)}
    if objective.reads_captions:
        forward["text"] = captions_per_image(plan) * text_flops(size, model.context)
    is_cached = objective.contrastive and global_size > plan.workers.count * plan.batch.micro_size
    again = int(model.activation_checkpointing) + int(is_cached)
    total = 3.0 * 2 * size.vision.width * num_concepts(plan)
    for name, flops in forward.items():
        tower = parameters.towers[name]
        trained = tower.trained(freeze_of(plan, name)) / tower.total
        total += flops * (1 + again * recomputed + 2 * trained)
    return total


def vision_flops(size: ModelSize, image_size: int, projection: bool, patch_dropout: float = 0.0) -> int:
    """Operations of one forward pass of the vision tower over one image."""
    patches = (image_size // size.patch_size) ** 2
    kept = max(1, round(patches * (1 - patch_dropout)))
    stem = 2 * patches * 3 * size.patch_size**2 * size.vision.width
    head = 2 * size.vision.width * size.embedding_width if projection else 0
    return stem + _transformer_flops(size.vision, kept + 1) + head


def text_flops(size: ModelSize, context: int) -> int:
    """Operations of one forward pass of the text tower over one caption of ``context`` tokens."""
    return _transformer_flops(size.text, context) + 2 * size.text.width * size.embedding_width


def _transformer_flops(size: TransformerSize, length: int) -> int:
    # Per token: 4 w^2 weights of attention and 2 w m of the feed-forward layer; scores and mixing read all tokens.
    weights = 2 * (4 * size.width**2 + 2 * size.width * size.mlp_width) * length
    attention = 2 * 2 * length**2 * size.width
    return size.num_layers * (weights + attention)
