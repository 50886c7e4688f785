"""What objectives with a vision and a text tower share: embeddings, captions in groups of K, and their metrics.

A caption column holds K captions of T tokens for each image, one after the other. All K are positives of their image.

Legend: B worker batch, G global batch, K captions of an image, N captions of the global batch (G K), D embedding,
T tokens, H W image, F features of the vision tower.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from orchestrator import columns
from orchestrator.collectives import gather_rows
from orchestrator.models.pixels import normalize_pixels
from orchestrator.objectives.objective import Features, ZeroShotObjective, unit_length


class TwoTowerObjective(ZeroShotObjective):
    """Two towers that meet in a shared space, and the learnable temperature t of their cosine similarities."""

    def __init__(self, vision: Any, text: Any, initial_scale: float) -> None:
        """``vision`` and ``text`` are `transformers` CLIP towers with a projection of the same width."""
        super().__init__()
        self.vision = vision
        self.text = text
        # Shape (1,): DeepSpeed cannot partition a 0-dim parameter.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(initial_scale)]))

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        tokens = batch[columns.TOKENS]
        tokens_BKT = tokens.view(len(tokens), -1, self.text.config.max_position_embeddings)
        return {
            "image_BD": self.image_embedding(batch[columns.IMAGE]),
            "text_BKD": self.text_embedding(tokens_BKT.flatten(0, 1)).view(*tokens_BKT.shape[:2], -1),
            "truncated_BK": self._is_truncated(tokens_BKT),
            "repeated_BK": _is_repeated(tokens_BKT),
            "hash_BK": _hash(tokens_BKT),
        }

    def towers(self) -> dict[str, nn.Module]:
        return {"vision": self.vision, "text": self.text}

    def vision_features(self, image_BHW3: Tensor) -> Tensor:
        return self._pooled(image_BHW3).float()

    def image_embedding(self, image_BHW3: Tensor) -> Tensor:
        return unit_length(self.vision(pixel_values=normalize_pixels(image_BHW3, self.vision.pixels)).image_embeds)

    def pooled_and_embedding(self, image_BHW3: Tensor) -> tuple[Tensor, Tensor]:
        pooled_BF = self._pooled(image_BHW3)
        return pooled_BF.float(), unit_length(self.vision.visual_projection(pooled_BF))

    def text_embedding(self, tokens_BT: Tensor) -> Tensor:
        return unit_length(self.text(input_ids=tokens_BT).text_embeds)

    def _pooled(self, image_BHW3: Tensor) -> Tensor:
        pixels_B3HW = normalize_pixels(image_BHW3, self.vision.pixels)
        pooled_BF: Tensor = self.vision.vision_model(pixel_values=pixels_B3HW).pooler_output
        return pooled_BF

    def _is_truncated(self, tokens_BKT: Tensor) -> Tensor:
        """Captions that fill the context up to their end token: they were cut, or fit exactly."""
        ends_at_BKT = tokens_BKT == self.text.config.eos_token_id
        return ends_at_BKT[..., -1] & (ends_at_BKT.sum(dim=-1) == 1)


def caption_metrics(features: Features) -> dict[str, Tensor]:
    """Shares of captions that were cut, that another image of the global batch has, too, and (with several for an
    image) that an earlier one repeats.
    """
    repeated_BK = features["repeated_BK"]
    metrics = {
        "truncated_caption_fraction": features["truncated_BK"].float().mean(),
        "duplicate_caption_fraction": _duplicate_fraction(features["hash_BK"], repeated_BK),
    }
    if repeated_BK.shape[1] > 1:
        metrics["repeated_caption_fraction"] = repeated_BK.float().mean()
    return metrics


@torch.no_grad()
def similarity_metrics(positive_BK: Tensor, hardest_caption_B: Tensor, hardest_image_BK: Tensor) -> dict[str, Tensor]:
    """From cosine similarities: of images with their captions, with the most similar caption of another image, and
    of captions with the most similar image that is not theirs.
    """
    return {
        "image_to_text_accuracy": (positive_BK.amax(dim=1) > hardest_caption_B).float().mean(),
        "text_to_image_accuracy": (positive_BK > hardest_image_BK).float().mean(),
        "positive_similarity": positive_BK.mean(),
        "hardest_negative_similarity": hardest_caption_B.mean(),
    }


def _hash(tokens_BKT: Tensor) -> Tensor:
    """int64 [B, K]: multilinear modulo 2^64, so that unequal captions are as good as never equal."""
    return (tokens_BKT * _hash_factors(tokens_BKT.shape[-1], tokens_BKT.device)).sum(dim=-1)


@lru_cache(maxsize=8)
def _hash_factors(length: int, device: torch.device) -> Tensor:
    return torch.randint(2**62, (length,), generator=torch.Generator().manual_seed(0)).to(device)


def _duplicate_fraction(hash_BK: Tensor, repeated_BK: Tensor) -> Tensor:
    """Of the captions of the global batch, each counted once an image, the share that another image has, too.

    By sorting, since the number of distinct ones would have to come back from the device.
    """
    # What an image repeats sorts behind all others, and is never a neighbour's equal.
    hash_N = gather_rows(hash_BK.masked_fill(repeated_BK, -1).flatten() & (2**63 - 1)).sort().values
    is_repeated_N = hash_N == 2**63 - 1
    equals_next = (hash_N[1:] == hash_N[:-1]) & ~is_repeated_N[1:]
    is_duplicate_N = pad(equals_next, (1, 0)) | pad(equals_next, (0, 1))
    return is_duplicate_N.sum() / (~is_repeated_N).sum()


def _is_repeated(tokens_BKT: Tensor) -> Tensor:
    """Captions that an earlier one of the same image equals: an image with too few repeats those it has."""
    same_BKK = (tokens_BKT.unsqueeze(2) == tokens_BKT.unsqueeze(1)).all(dim=-1)
    return same_BKK.tril(diagonal=-1).any(dim=-1)
