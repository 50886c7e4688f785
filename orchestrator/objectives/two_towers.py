"""What objectives with a vision and a text tower share: embeddings, captions in groups of K, and their metrics.

A caption column holds K captions of T tokens for each image, one after the other. All K are positives of their image.

Legend: B worker batch, G global batch, K captions of an image, N captions of the global batch (G K), D embedding,
T tokens, H W image, F features of the vision tower.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator import columns
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
    """Shares of captions that were cut, and (with several for an image) that an earlier one repeats."""
    metrics = {"truncated_caption_fraction": features["truncated_BK"].float().mean()}
    if features["repeated_BK"].shape[1] > 1:
        metrics["repeated_caption_fraction"] = features["repeated_BK"].float().mean()
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


def _is_repeated(tokens_BKT: Tensor) -> Tensor:
    """Captions that an earlier one of the same image equals: an image with too few repeats those it has."""
    same_BKK = (tokens_BKT.unsqueeze(2) == tokens_BKT.unsqueeze(1)).all(dim=-1)
    return same_BKK.tril(diagonal=-1).any(dim=-1)
