"""Arithmetic of the towers, counted from their sizes: what a device must do at least for one sample.

A multiplication and an addition are two operations. Matrix products only; norms, activations and softmax are left
out, as is the usual practice. Recomputed activations do not count: they are no progress.
"""

from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS, ModelSize, TransformerSize


def training_flops(plan: Plan) -> float:
    """Operations of training on one sample, the mean over the run's steps: three times those of the forward pass."""
    size, model, objective = PRESETS[plan.model.preset], plan.model, plan.objective
    spec = plan.data.spec
    num_captions = spec.captions_per_image if isinstance(spec, ShardsSpec) else 1
    text = num_captions * text_flops(size, model.context) if objective.reads_captions else 0
    head = 2 * size.vision.width * model.vocabulary.size if objective.reads_concepts and model.vocabulary else 0
    vision, start = 0.0, 0
    for stop, sizes in (
        *((phase.stop_step, phase.image_sizes) for phase in model.image_sizes.phases),
        (plan.steps, (model.image_sizes.final,)),
    ):
        of_sizes = [vision_flops(size, pixels, objective.reads_captions, model.patch_dropout) for pixels in sizes]
        vision += sum(of_sizes) / len(sizes) * (stop - start) / plan.steps
        start = stop
    return 3 * (vision + text + head)


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
