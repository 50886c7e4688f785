"""Memory that a plan takes on each training device, counted from its sizes; ``benchmarks/memory.py`` measures it.

Weights, optimizer state and averages are there all the time. Activations grow in the forward pass and shrink in the
backward pass, while gradients grow; with several micro batches gradients wait beside the next one's activations.
Weights in bf16 and fp16 run in 16 bits at ZeRO 1 to 3; at ZeRO 0 they are fp32 and run under autocast
(``training/engine.py``), which keeps sums of layers in fp32 and makes 16-bit copies of weights.
"""

from dataclasses import dataclass

from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.objective import CatlipSpec, ClipSpec, SiglipSpec
from orchestrator.spec.parameters import Parameters, count_parameters, freeze_of
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS, VARIANTS, TransformerSize

BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default for the buffers in which gradients travel."""
_OPTIMIZER_BYTES = (8, 12, 12, 16)  # by ZeRO stage, a parameter: moments 8, masters 4, at stage 3 a place for gradients
_LIVE_ELEMENTS = 1_000_000_000  # at ZeRO 3, DeepSpeed's default for weights that stay gathered
_CATLIP_LOGITS = 2**24  # of a chunk, as in objectives/concept_classifier.py


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device."""

    weights: int
    optimizer: int
    """Master weights and moments."""
    average: int
    gradients: int
    """With what the update needs of them at once."""
    waiting: int
    """Gradients of the micro batches before; 0 with one micro batch."""
    activations: int
    """Of one micro batch, with the batch itself, the loss and what the backward pass needs beside."""
    buffers: int

    @property
    def total(self) -> int:
        """At the peak."""
        moving = max(self.gradients, self.waiting + self.activations)
        return self.weights + self.optimizer + self.average + self.buffers + moving


@dataclass(frozen=True)
class _Widths:
    """Bytes of a number."""

    computed: int
    """What matrix products read and write."""
    summed: int
    """The sums that go from layer to layer."""


def device_memory(plan: Plan, zero_stage: int | None = None, buffers: bool = True) -> DeviceMemory:
    """Of one device at the plan's largest images and batches; ``zero_stage`` takes the place of the plan's.

    Args:
        buffers: count DeepSpeed's communication buffers.
    """
    stage = plan.zero_stage if zero_stage is None else zero_stage
    parameters = count_parameters(plan)
    widths = _widths(plan, stage)
    num_ranks, trained = plan.workers.count, parameters.trained
    shards = num_ranks if stage else 1
    activations = _activation_bytes(plan, widths)
    if widths.summed != widths.computed:
        activations += widths.computed * parameters.total
    return DeviceMemory(
        weights=_weight_bytes(parameters, widths, stage, num_ranks),
        optimizer=_OPTIMIZER_BYTES[stage] * trained // shards,
        average=0 if plan.ema is None else 4 * trained // shards,
        gradients=_gradient_bytes(trained, widths, stage, num_ranks),
        waiting=_waiting_bytes(trained, widths, stage, num_ranks) if plan.batch.most_micro > 1 else 0,
        activations=activations,
        buffers=_buffer_bytes(plan, widths, stage) if buffers else 0,
    )


def _widths(plan: Plan, stage: int) -> _Widths:
    if plan.precision == "fp32":
        return _Widths(4, 4)
    return _Widths(2, 4) if stage == 0 else _Widths(2, 2)


def _weight_bytes(parameters: Parameters, widths: _Widths, stage: int, num_ranks: int) -> int:
    if stage < 3:
        return widths.summed * parameters.total
    gathered = min(parameters.total, _LIVE_ELEMENTS)
    return widths.computed * (parameters.total // num_ranks + gathered)


def _waiting_bytes(trained: int, widths: _Widths, stage: int, num_ranks: int) -> int:
    if stage < 2:
        return (4 if stage == 0 else widths.computed) * trained
    return 4 * trained // num_ranks if stage == 2 else 0  # at stage 3 they have their place already


def _gradient_bytes(trained: int, widths: _Widths, stage: int, num_ranks: int) -> int:
    if stage == 0:  # copied into one tensor to be averaged
        return (4 + 4 * (num_ranks > 1)) * trained
    if stage == 1:
        return widths.computed * trained + (widths.computed + 4) * trained // num_ranks
    return 8 * trained // num_ranks if stage == 2 else widths.computed * trained + 4 * trained // num_ranks


def _buffer_bytes(plan: Plan, widths: _Widths, stage: int) -> int:
    if stage == 0:
        return 0
    number = 2 if stage < 3 and plan.workers.accelerator == "cuda" else 1  # one is filled while the other travels
    return number * widths.computed * BUCKET_ELEMENTS


def _activation_bytes(plan: Plan, widths: _Widths) -> int:
    size, model, micro = PRESETS[plan.model.preset], plan.model, plan.batch.micro_size
    pixels = model.image_sizes.all[-1]
    patches = max(1, round((pixels // size.patch_size) ** 2 * (1 - model.patch_dropout))) + 1
    image_bytes = micro * 3 * pixels**2
    towers = [_tower_bytes(plan, "vision", size.vision, micro * patches, patches, widths)]
    if plan.objective.reads_captions:
        captions = micro * captions_per_image(plan)
        towers.append(_tower_bytes(plan, "text", size.text, captions * model.context, model.context, widths))
    stored = sum(one for one, _ in towers) + max(moving for _, moving in towers)
    return image_bytes * (2 + widths.computed) + stored + _loss_bytes(plan, widths)


def _tower_bytes(
    plan: Plan, tower: str, size: TransformerSize, num_tokens: int, length: int, widths: _Widths
) -> tuple[int, int]:
    """What the forward pass leaves for the backward pass, and what that one needs beside for a layer."""
    freeze = freeze_of(plan, tower)
    frozen = 0
    if freeze is not None and freeze.until_fraction is None:
        frozen = size.num_layers if freeze.layers is None else freeze.layers
    token, hidden = num_tokens * size.width, num_tokens * size.mlp_width
    # Of a layer: two sums, and 6 widths (normed twice, queries, keys, values, attended), and the feed-forward's before
    # and after its activation. A quick GELU keeps its sigmoid as well, eager attention its scores.
    quick = VARIANTS[plan.model.variant].activation == "quick_gelu"
    layer = token * (2 * widths.summed + 6 * widths.computed) + (2 + quick) * hidden * widths.computed
    if plan.model.attention == "eager":
        layer += num_tokens * length * size.num_heads * (4 + widths.computed % 4)
    kept = token * widths.summed if plan.model.activation_checkpointing else layer
    moving = (
        2 * hidden * widths.computed + token * widths.summed + (layer if plan.model.activation_checkpointing else 0)
    )
    return (size.num_layers - frozen) * kept + 2 * token * widths.summed, moving


def _loss_bytes(plan: Plan, widths: _Widths) -> int:
    global_size, captions = plan.batch.all_sizes[-1], captions_per_image(plan)
    rows = global_size // plan.workers.count
    if isinstance(plan.objective, ClipSpec):  # similarities, logits and their gradient, both ways
        return 6 * 4 * rows * global_size * captions
    if isinstance(plan.objective, SiglipSpec):
        return 6 * 4 * min(rows, plan.objective.chunk_size) * rows * captions
    if isinstance(plan.objective, CatlipSpec) and plan.model.vocabulary is not None:
        num_concepts, width = plan.model.vocabulary.size, PRESETS[plan.model.preset].vision.width
        logits = min(plan.batch.micro_size * num_concepts, _CATLIP_LOGITS)
        return 3 * 4 * logits + 4 * num_concepts * width * (2 if widths.summed == 2 else 1)
    return 0


def captions_per_image(plan: Plan) -> int:
    """Of a batch."""
    return plan.data.spec.captions_per_image if isinstance(plan.data.spec, ShardsSpec) else 1
