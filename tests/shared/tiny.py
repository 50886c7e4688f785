"""An objective small enough for seconds, and global batches for it; shared by the tiers that take optimizer steps."""

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.objective import CatlipSpec, ClipSpec, ObjectiveSection, SiglipSpec
from orchestrator.spec.plan import ModelPlan
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.resolution import ImageSizes
from orchestrator.training.step import Batch, to_device

GLOBAL_SIZE = 12
NUM_CONCEPTS = 9
SPECS: dict[str, type[ObjectiveSection]] = {"clip": ClipSpec, "siglip": SiglipSpec, "catlip": CatlipSpec}
TOKENS = TokenLayout(num_tokens=64, context=8, begin_id=1, end_id=3, pad_id=0)

TINY_PLAN = ModelPlan(
    preset="vit_nano_32",
    image_size=32,
    image_sizes=ImageSizes(final=32, phases=(), seed=0),
    patch_dropout=0.0,
    attention="sdpa",
    compile=False,
    activation_checkpointing=False,
    context=TOKENS.context,
    trained_tokenizer_size=TOKENS.num_tokens,
    tokenizer=None,
    vocabulary=None,
)
"""What a plan says of its model."""


def build_tiny(name: str, **options: float) -> Objective:
    """The objective of that name with the same weights each time; ``options`` are those of its spec."""
    build = ModelBuild(PRESETS["vit_nano_32"], image_size=32, seed=0, tokens=TOKENS)
    return build_objective(SPECS[name](name=name, **options), build, np.full(NUM_CONCEPTS, 0.2))


def global_batch(step: int, device: str = "cpu", num_captions: int = 1) -> Batch:
    """Noise that depends on the step alone; some captions are longer, some rows name no concept."""
    rng = np.random.default_rng(step)
    concepts = np.stack([rng.permutation(NUM_CONCEPTS)[:3] for _ in range(GLOBAL_SIZE)]).astype(np.int32)
    concepts[::4] = -1
    image = rng.integers(0, 256, (GLOBAL_SIZE, 32, 32, 3), dtype=np.uint8)
    tokens = np.concatenate([_tokens(rng) for _ in range(num_captions)], axis=1)
    batch: dict[str, NDArray[np.generic]] = {"image": image, "tokens": tokens, "concepts": concepts}
    return to_device(batch, batch, torch.device(device))


def _tokens(rng: np.random.Generator) -> NDArray[np.int32]:
    tokens = rng.integers(4, TOKENS.num_tokens, (GLOBAL_SIZE, TOKENS.context), dtype=np.int32)
    tokens[:, 0], tokens[:, 6], tokens[:, 7] = TOKENS.begin_id, TOKENS.end_id, TOKENS.pad_id
    tokens[::5, 6:] = [30, TOKENS.end_id]
    return tokens
