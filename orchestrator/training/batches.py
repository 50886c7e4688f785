"""From a block's arrays to a batch on the device: copied, its colours changed, its patches chosen.

Both are drawn from a row's provenance, never from a generator: a resume, another world size and a forward pass that is
computed again see the same.

Legend: B rows of a micro batch, N patches of an image, K those that are kept.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator import columns
from orchestrator.data.draw import BlockDraws
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS
from orchestrator.training.augmentation import augment_colors
from orchestrator.training.step import Batch, to_device


class TrainingBatches:
    """Makes the batches of a plan's objective."""

    def __init__(self, plan: Plan, content: tuple[str, ...], device: torch.device) -> None:
        """``content``: columns that the objective reads."""
        shards = plan.data.spec if isinstance(plan.data.spec, ShardsSpec) else None
        self._augmentation = shards.augmentation if shards else AugmentationSpec()
        self._seed, self._patch_dropout = plan.seed, plan.model.patch_dropout
        self._patch_size = PRESETS[plan.model.preset].patch_size
        self._content, self._device = content, device

    def prepare(self, arrays: Mapping[str, NDArray[np.generic]]) -> Batch:
        """``arrays``: content and provenance."""
        batch = to_device(arrays, self._content, self._device)
        draws = BlockDraws.of_block(self._seed.data, arrays)
        batch[columns.IMAGE] = augment_colors(batch[columns.IMAGE], self._augmentation, draws)
        if self._patch_dropout > 0:
            num_patches = (arrays[columns.IMAGE].shape[1] // self._patch_size) ** 2
            draws = BlockDraws.of_block(self._seed.model, arrays)
            kept_BK = choose_patches(draws, num_patches, self._patch_dropout)
            batch[columns.KEPT_PATCHES] = torch.from_numpy(kept_BK).to(self._device, non_blocking=True)
        return batch


def choose_patches(draws: BlockDraws, num_patches: int, dropout: float) -> NDArray[np.int64]:
    """Each row's own random patches [B, K], rising; K is the same for all, and at least one."""
    num_kept = max(1, round(num_patches * (1 - dropout)))
    order_BN = np.argsort(draws.uniform("patches", num_patches), axis=1)
    return np.sort(order_BN[:, :num_kept], axis=1)
