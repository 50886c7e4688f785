"""Patches of an image with their positions: images of any size that the patches divide, and some patches left out.

Which patches are kept is decided outside (``training/batches.py``): nothing here draws, so recomputing a forward pass
gives the same.

Legend: B batch, N patches of an image, R C their rows and columns, K kept patches, P trained positions, D width.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings


class PatchEmbeddings(CLIPVisionEmbeddings):
    """CLIP's embeddings, by the same names: the class token, then patches, each with its position."""

    kept_BK: Tensor | None = None
    """int64, the patches of each image that go on; None: all. The class token always does."""

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        patches_BDRC = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        # Through the module, since ZeRO-3 gathers its weight at the call.
        positions_PD = self.position_embedding(self.position_ids)[0]
        tokens_BND = _place(patches_BDRC, positions_PD[1:], self.kept_BK)
        class_BD = (self.class_embedding + positions_PD[0]).expand(len(tokens_BND), -1)
        return torch.cat([class_BD.unsqueeze(1), tokens_BND], dim=1)


class SiglipPatchEmbeddings(SiglipVisionEmbeddings):
    """SigLIP's embeddings, by the same names: patches alone, each with its position."""

    kept_BK: Tensor | None = None
    """As in ``PatchEmbeddings``."""

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        patches_BDRC = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        return _place(patches_BDRC, self.position_embedding(self.position_ids)[0], self.kept_BK)


def _place(patches_BDRC: Tensor, positions_PD: Tensor, kept_BK: Tensor | None) -> Tensor:
    """Patches with their positions, those that are kept."""
    grid_ND = resize_positions(positions_PD, *patches_BDRC.shape[-2:])
    tokens_BND = patches_BDRC.flatten(2).transpose(1, 2) + grid_ND
    if kept_BK is None:
        return tokens_BND
    return tokens_BND.gather(1, kept_BK.unsqueeze(2).expand(-1, -1, tokens_BND.shape[2]))


def resize_positions(positions_PD: Tensor, rows: int, columns: int) -> Tensor:
    """A square grid of positions for another grid [rows * columns, D], by bicubic interpolation; itself for its own."""
    side = round(len(positions_PD) ** 0.5)
    if (rows, columns) == (side, side):
        return positions_PD
    grid_1DRC = positions_PD.float().T.reshape(1, -1, side, side)
    resized_1DRC = interpolate(grid_1DRC, (rows, columns), mode="bicubic", align_corners=False)
    return resized_1DRC.flatten(2)[0].T.to(positions_PD.dtype)


def use_patch_embeddings(tower: Any) -> None:
    """Puts them into a vision tower as built; its weights are to be set afterwards."""
    vision = getattr(tower, "vision_model", tower)
    is_siglip = isinstance(vision.embeddings, SiglipVisionEmbeddings)
    vision.embeddings = (SiglipPatchEmbeddings if is_siglip else PatchEmbeddings)(vision.config)


@contextmanager
def keeping(towers: Iterable[nn.Module], kept_BK: Tensor | None) -> Iterator[None]:
    """Inside, the towers that read images see only these patches."""
    kinds = (PatchEmbeddings, SiglipPatchEmbeddings)
    embeddings = [module for tower in towers for module in tower.modules() if isinstance(module, kinds)]
    for module in embeddings:
        module.kept_BK = kept_BK
    try:
        yield
    finally:
        for module in embeddings:
            module.kept_BK = None
