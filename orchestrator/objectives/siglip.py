"""SigLIP: every pair of an image and a caption of the global batch is judged on its own, as positive or negative.

The loss of a pair is -log sigmoid(y z) with z = exp(t') cos + b and y = 1 for an image's own captions, else -1, summed
over all pairs and divided by the number of captions (arXiv 2303.15343, algorithm 1; the sign of b in the paper's
printed formula is another one, and wrong). With K captions an image, all K are its positives.

Images stay on their rank and captions travel around the ring of ranks, their gradient with them: a rank holds the
captions of one other rank at a time, and the logits of ``chunk_size`` of its images with those, however many ranks
there are. The gradient is computed on the same round, for one caption exchange instead of two.

Legend: B worker batch, K captions of an image, R captions of a rank (B K), C images of a chunk, D embedding, H W image.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from orchestrator.collectives import rank_and_world_size, shift_to_next_rank
from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.siglip_towers import (
    build_siglip_text_tower,
    build_siglip_vision_tower,
    join_siglip_model,
)
from orchestrator.models.towers import ModelBuild, build_projected_vision_tower, build_text_tower, join_clip_model
from orchestrator.objectives.objective import Export, Features, concatenate, unit_length
from orchestrator.objectives.two_towers import TwoTowerObjective, caption_metrics, similarity_metrics
from orchestrator.spec.objective import SiglipSpec


class SiglipObjective(TwoTowerObjective):
    """Two towers that meet in a shared space, the learnable temperature t' and the learnable bias b."""

    columns = SiglipSpec.columns
    contrastive = SiglipSpec.contrastive

    def __init__(self, spec: SiglipSpec, vision: Any, text: Any) -> None:
        """``vision`` and ``text`` are `transformers` towers of the kind that ``spec.towers`` names."""
        super().__init__(vision, text, spec.initial_scale)
        self.logit_bias = nn.Parameter(torch.tensor([spec.initial_bias]))
        self._spec = spec

    @classmethod
    def build(
        cls, spec: SiglipSpec, model: ModelBuild, concept_fraction_V: NDArray[np.float64] | None
    ) -> "SiglipObjective":
        if spec.towers == "clip":
            return cls(spec, build_projected_vision_tower(model), build_text_tower(model))
        return cls(spec, build_siglip_vision_tower(model), build_siglip_text_tower(model))

    def loss(self, features: Sequence[Features]) -> tuple[Tensor, dict[str, Tensor]]:
        joined = concatenate(features)
        with torch.autocast(joined["image_BD"].device.type, enabled=False):
            scale, bias = self.logit_scale.float().exp(), self.logit_bias.float()
            loss, *similarities = _PairLoss.apply(  # type: ignore[no-untyped-call]
                joined["image_BD"], joined["text_BKD"], scale, bias, self._spec.chunk_size, torch.is_grad_enabled()
            )
        metrics = similarity_metrics(*similarities) | caption_metrics(joined)
        # A copy of the bias: it may be the parameter itself, which the step changes.
        metrics |= {"logit_scale": scale.detach().squeeze(0), "logit_bias": bias.detach().squeeze(0).clone()}
        return loss, metrics

    def bounds(self) -> dict[str, tuple[float, float]]:
        if self._spec.max_scale is None:
            return {}
        return {"logit_scale": (-math.inf, math.log(self._spec.max_scale))}

    def vision_features(self, image_BHW3: Tensor) -> Tensor:
        if self._spec.towers == "clip":
            return super().vision_features(image_BHW3)
        pooled: Tensor = self.vision(pixel_values=normalize_pixels(image_BHW3, self.vision.pixels)).pooler_output
        return pooled.float()

    def image_embedding(self, image_BHW3: Tensor) -> Tensor:
        if self._spec.towers == "clip":
            return super().image_embedding(image_BHW3)
        return unit_length(self.vision_features(image_BHW3))

    def pooled_and_embedding(self, image_BHW3: Tensor) -> tuple[Tensor, Tensor]:
        if self._spec.towers == "clip":
            return super().pooled_and_embedding(image_BHW3)
        pooled_BF = self.vision_features(image_BHW3)
        return pooled_BF, unit_length(pooled_BF)

    def text_embedding(self, tokens_BT: Tensor) -> Tensor:
        if self._spec.towers == "clip":
            return super().text_embedding(tokens_BT)
        return unit_length(self.text(input_ids=tokens_BT).pooler_output)

    def export(self, state: Mapping[str, Tensor]) -> Export:
        vision_state = {name.removeprefix("vision."): state[name] for name in state if name.startswith("vision.")}
        text_state = {name.removeprefix("text."): state[name] for name in state if name.startswith("text.")}
        scale, bias = state["logit_scale"], state["logit_bias"]
        if self._spec.towers == "clip":  # a CLIPModel has no place for the bias
            model = join_clip_model(self.vision, self.text, vision_state, text_state, scale)
            return Export(model, head={"logit_bias": bias})
        return Export(join_siglip_model(self.vision, self.text, vision_state, text_state, scale, bias), head={})


class _PairLoss(torch.autograd.Function):
    """Loss of this rank's images with all captions, and the similarities that metrics need.

    Its gradient is exact where all ranks weigh their losses alike, as data parallelism does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image_BD: Tensor,
        text_BKD: Tensor,
        scale: Tensor,
        bias: Tensor,
        chunk_size: int,
        with_gradient: bool,
    ) -> tuple[Tensor, ...]:
        ring = _Round(image_BD, text_BKD, scale, bias, chunk_size, with_gradient)
        ring.walk()
        count = text_BKD.shape[0] * text_BKD.shape[1]
        if with_gradient:
            gradients = (ring.grad_image_BD, ring.grad_text_RD, ring.grad_scale, ring.grad_bias)
            ctx.save_for_backward(*(gradient / count for gradient in gradients))
            ctx.text_shape = text_BKD.shape
        similarities = (ring.positive_BK, ring.hardest_caption_B, ring.hardest_image_R.view_as(ring.positive_BK))
        ctx.mark_non_differentiable(*similarities)
        return ring.total / count, *similarities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        image_BD, text_RD, scale, bias = (grad_loss * gradient for gradient in ctx.saved_tensors)
        return image_BD, text_RD.view(ctx.text_shape), scale, bias, None, None


class _Round:
    """One walk of all ranks' captions past this rank's images; sums over pairs, not yet divided."""

    def __init__(
        self, image_BD: Tensor, text_BKD: Tensor, scale: Tensor, bias: Tensor, chunk_size: int, with_gradient: bool
    ) -> None:
        self._image_BD, self._scale, self._bias = image_BD, scale, bias
        self._chunk_size, self._with_gradient = chunk_size, with_gradient
        self._num_captions = text_BKD.shape[1]
        self._text_RD = text_BKD.flatten(0, 1)
        self.total = image_BD.new_zeros(())
        self.grad_image_BD, self.grad_text_RD = torch.zeros_like(image_BD), torch.zeros_like(self._text_RD)
        self.grad_scale, self.grad_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        self.positive_BK = text_BKD.new_empty(text_BKD.shape[:2])
        self.hardest_caption_B = image_BD.new_full((len(image_BD),), -math.inf)
        self.hardest_image_R = self._text_RD.new_full((len(self._text_RD),), -math.inf)

    def walk(self) -> None:
        """After as many shifts as there are ranks, the captions' gradients and similarities are home again."""
        _, world_size = rank_and_world_size()
        for step in range(world_size):
            for start in range(0, len(self._image_BD), self._chunk_size):
                self._meet(slice(start, start + self._chunk_size), is_own=step == 0)
            travelling = [self._text_RD, self.hardest_image_R]
            if self._with_gradient:
                travelling.append(self.grad_text_RD)
            self._text_RD, self.hardest_image_R, *gradient = shift_to_next_rank(travelling)
            if gradient:
                (self.grad_text_RD,) = gradient

    def _meet(self, chunk: slice, is_own: bool) -> None:
        """This rank's images of ``chunk`` with the captions that are here now; ``is_own``: their own among them."""
        image_CD = self._image_BD[chunk]
        similarity_CR = image_CD @ self._text_RD.T
        sign_CR = None
        if is_own:
            sign_CR = self._signs(chunk, similarity_CR)
            is_positive_CR = sign_CR > 0
            self.positive_BK[chunk] = similarity_CR[is_positive_CR].view(len(image_CD), -1)
            negative_CR = similarity_CR.masked_fill(is_positive_CR, -math.inf)
        else:
            negative_CR = similarity_CR
        self.hardest_caption_B[chunk] = self.hardest_caption_B[chunk].maximum(negative_CR.amax(dim=1))
        self.hardest_image_R = self.hardest_image_R.maximum(negative_CR.amax(dim=0))
        # With y = -1 wherever no sign is given: -log sigmoid(y z) = softplus(-y z), of derivative -y sigmoid(-y z).
        wrong_CR = torch.addcmul(self._bias, self._scale, similarity_CR)
        if sign_CR is not None:
            wrong_CR *= -sign_CR
        self.total += softplus(wrong_CR).sum()
        if self._with_gradient:
            grad_CR = wrong_CR.sigmoid_()
            if sign_CR is not None:
                grad_CR *= -sign_CR
            self._add_gradient(chunk, image_CD, similarity_CR, grad_CR)

    def _signs(self, chunk: slice, similarity_CR: Tensor) -> Tensor:
        """y: 1 where a caption is one of the image's own, else -1."""
        image_R = torch.arange(similarity_CR.shape[1], device=similarity_CR.device) // self._num_captions
        own_C = torch.arange(chunk.start, chunk.start + len(similarity_CR), device=similarity_CR.device)
        return torch.where(own_C.unsqueeze(1) == image_R, 1.0, -1.0)

    def _add_gradient(self, chunk: slice, image_CD: Tensor, similarity_CR: Tensor, grad_CR: Tensor) -> None:
        """``grad_CR``: of the logits."""
        self.grad_bias += grad_CR.sum()
        self.grad_scale += (grad_CR * similarity_CR).sum()
        self.grad_image_BD[chunk].addmm_(grad_CR, self._text_RD * self._scale)
        self.grad_text_RD.addmm_(grad_CR.T, image_CD * self._scale)
