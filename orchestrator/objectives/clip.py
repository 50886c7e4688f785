"""CLIP: every image must find its caption among all captions of the global batch, and the other way round.

Symmetric cross-entropy over cosine similarities times exp(t) (arXiv 2103.00020, figure 3). Each rank scores its own
rows against the gathered ones: b x G logits in memory instead of G x G, and the same gradient as one process.

With K captions an image, all K are its positives: the mean over them of -log softmax, each against all captions of
the batch (SupCon's L_out, arXiv 2004.11362; UniCL, arXiv 2204.03610). K = 1 is CLIP.

Legend: B worker batch, G global batch, K captions of an image, N captions of the global batch (G K), D embedding.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from orchestrator.collectives import gather_with_gradient, rank_and_world_size
from orchestrator.models.towers import ModelBuild, build_projected_vision_tower, build_text_tower, join_clip_model
from orchestrator.objectives.objective import Export, Features, concatenate
from orchestrator.objectives.two_towers import TwoTowerObjective, caption_metrics, similarity_metrics
from orchestrator.spec.objective import ClipSpec


class ClipObjective(TwoTowerObjective):
    """Two towers with projections to a shared space, and the learnable temperature t."""

    columns = ClipSpec.columns
    contrastive = ClipSpec.contrastive

    def __init__(self, spec: ClipSpec, vision: Any, text: Any) -> None:
        """``vision`` and ``text`` are `transformers` CLIP towers with a projection of the same width."""
        super().__init__(vision, text, spec.initial_scale)
        self._max_logit_scale = math.log(spec.max_scale)

    @classmethod
    def build(
        cls, spec: ClipSpec, model: ModelBuild, concept_fraction_V: NDArray[np.float64] | None
    ) -> "ClipObjective":
        return cls(spec, build_projected_vision_tower(model), build_text_tower(model))

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        joined = concatenate(features)
        image_BD, text_BKD = joined["image_BD"], joined["text_BKD"]
        image_GD = gather_with_gradient(image_BD)
        text_ND = gather_with_gradient(text_BKD).flatten(0, 1)
        size, num_captions = text_BKD.shape[:2]
        rank, _ = rank_and_world_size()
        own_B1 = (torch.arange(size, device=image_BD.device) + rank * size).unsqueeze(1)
        own_BK = own_B1 * num_captions + torch.arange(num_captions, device=image_BD.device)
        own_R1 = own_B1.repeat_interleave(num_captions, dim=0)  # R: this rank's captions, B K
        with torch.autocast(image_BD.device.type, enabled=False):
            scale = self.logit_scale.float().exp()
            image_similarity_BN = image_BD @ text_ND.T
            text_similarity_RG = text_BKD.flatten(0, 1) @ image_GD.T
            loss = _cross_entropy(scale * image_similarity_BN, own_BK) / 2
            loss = loss + _cross_entropy(scale * text_similarity_RG, own_R1) / 2
        metrics = _similarity_metrics(image_similarity_BN.detach(), text_similarity_RG.detach(), own_BK, own_R1)
        return loss, metrics | caption_metrics(joined) | {"logit_scale": scale.detach().squeeze(0)}

    def bounds(self) -> dict[str, tuple[float, float]]:
        return {"logit_scale": (0.0, self._max_logit_scale)}

    def export(self, state: Mapping[str, Tensor]) -> Export:
        vision_state = {name.removeprefix("vision."): state[name] for name in state if name.startswith("vision.")}
        text_state = {name.removeprefix("text."): state[name] for name in state if name.startswith("text.")}
        model = join_clip_model(self.vision, self.text, vision_state, text_state, state["logit_scale"])
        return Export(model, head={})


def _cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Mean over rows and over each row's ``positives`` (indices of its columns) of -log softmax."""
    return -log_softmax(logits, dim=1).gather(1, positives).mean()


@torch.no_grad()
def _similarity_metrics(image_BN: Tensor, text_RG: Tensor, own_BK: Tensor, own_R1: Tensor) -> dict[str, Tensor]:
    """From cosine similarities of this rank's images with all captions, and of its captions with all images."""
    hardest_caption_B = image_BN.scatter(1, own_BK, -math.inf).amax(dim=1)
    hardest_image_BK = text_RG.scatter(1, own_R1, -math.inf).amax(dim=1).view_as(own_BK)
    return similarity_metrics(image_BN.gather(1, own_BK), hardest_caption_B, hardest_image_BK)
