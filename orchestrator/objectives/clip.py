"""CLIP: every image must find its caption among all captions of the global batch, and the other way round.

Symmetric cross-entropy over cosine similarities times exp(t) (arXiv 2103.00020, figure 3). Each rank scores its own
rows against the gathered ones: b x G logits in memory instead of G x G, and the same gradient as one process.

Legend: B worker batch, G global batch, D embedding, T tokens, H W image.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from orchestrator import columns
from orchestrator.collectives import gather_with_gradient, rank_and_world_size
from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import join_clip_model
from orchestrator.objectives.objective import (
    Export,
    Features,
    ZeroShotObjective,
    concatenate,
    unit_length,
)
from orchestrator.spec.objective import ClipSpec


class ClipObjective(ZeroShotObjective):
    """Two towers with projections to a shared space, and the learnable temperature t."""

    columns = (columns.IMAGE, columns.TOKENS)
    contrastive = True

    def __init__(self, spec: ClipSpec, vision: Any, text: Any) -> None:
        """``vision`` and ``text`` are `transformers` CLIP towers with a projection of the same width."""
        super().__init__()
        self.vision = vision
        self.text = text
        # Shape (1,): DeepSpeed cannot partition a 0-dim parameter.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(spec.initial_scale)]))
        self._max_logit_scale = math.log(spec.max_scale)

    def encode(self, batch: Mapping[str, Tensor]) -> Features:
        tokens_BT = batch[columns.TOKENS]
        return {
            "image_BD": self.image_embedding(batch[columns.IMAGE]),
            "text_BD": self.text_embedding(tokens_BT),
            "truncated_B": self._is_truncated(tokens_BT),
        }

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        joined = concatenate(features)
        image_BD, text_BD = joined["image_BD"], joined["text_BD"]
        image_GD, text_GD = gather_with_gradient(image_BD), gather_with_gradient(text_BD)
        rank, _ = rank_and_world_size()
        own_B = torch.arange(len(image_BD), device=image_BD.device) + rank * len(image_BD)
        with torch.autocast(image_BD.device.type, enabled=False):
            scale = self.logit_scale.float().exp()
            image_similarity_BG = image_BD @ text_GD.T
            text_similarity_BG = text_BD @ image_GD.T
            loss = cross_entropy(scale * image_similarity_BG, own_B) / 2
            loss = loss + cross_entropy(scale * text_similarity_BG, own_B) / 2
        metrics = _similarity_metrics(image_similarity_BG.detach(), text_similarity_BG.detach(), own_B)
        metrics["logit_scale"] = scale.detach().squeeze(0)
        metrics["truncated_caption_fraction"] = joined["truncated_B"].float().mean()
        return loss, metrics

    def bounds(self) -> dict[str, tuple[float, float]]:
        return {"logit_scale": (0.0, self._max_logit_scale)}

    def towers(self) -> dict[str, nn.Module]:
        return {"vision": self.vision, "text": self.text}

    def vision_features(self, image_BHW3: Tensor) -> Tensor:
        pooled = self.vision.vision_model(pixel_values=normalize_pixels(image_BHW3, self.vision.pixels)).pooler_output
        return pooled.float()

    def image_embedding(self, image_BHW3: Tensor) -> Tensor:
        return unit_length(self.vision(pixel_values=normalize_pixels(image_BHW3, self.vision.pixels)).image_embeds)

    def text_embedding(self, tokens_BT: Tensor) -> Tensor:
        return unit_length(self.text(input_ids=tokens_BT).text_embeds)

    def export(self, state: Mapping[str, Tensor]) -> Export:
        vision_state = {name.removeprefix("vision."): state[name] for name in state if name.startswith("vision.")}
        text_state = {name.removeprefix("text."): state[name] for name in state if name.startswith("text.")}
        model = join_clip_model(self.vision, self.text, vision_state, text_state, state["logit_scale"])
        return Export(model, head={})

    def _is_truncated(self, tokens_BT: Tensor) -> Tensor:
        """Captions that fill the context up to their end token: they were cut, or fit exactly."""
        ids = self.text.config
        ends_at_T = tokens_BT == ids.eos_token_id
        return ends_at_T[:, -1] & (ends_at_T.sum(dim=1) == 1)


@torch.no_grad()
def _similarity_metrics(image_BG: Tensor, text_BG: Tensor, own_B: Tensor) -> dict[str, Tensor]:
    """From cosine similarities of local images with all captions and of local captions with all images."""
    own_B1 = own_B.unsqueeze(1)
    positive_B1 = image_BG.gather(1, own_B1)
    hardest_caption_B1 = image_BG.scatter(1, own_B1, -math.inf).amax(dim=1, keepdim=True)
    hardest_image_B1 = text_BG.scatter(1, own_B1, -math.inf).amax(dim=1, keepdim=True)
    return {
        "image_to_text_accuracy": (positive_B1 > hardest_caption_B1).float().mean(),
        "text_to_image_accuracy": (positive_B1 > hardest_image_B1).float().mean(),
        "positive_similarity": positive_B1.mean(),
        "hardest_negative_similarity": hardest_caption_B1.mean(),
    }
