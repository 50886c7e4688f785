"""A linear classifier into concepts and its summed binary cross-entropy, without ever holding all logits.

At 24,320 concepts the logits of 1,024 images are 95 MiB in fp32, and plain autograd keeps several such tensors at
once. Here images are taken in chunks; each chunk's logits turn into its loss, its hits and, in place, its gradient,
and are gone. The loss is a scalar, so its gradient can be computed before the backward pass asks for it.

Legend: B worker batch, C images of a chunk, V vocabulary, K most concepts of a caption, F features.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

MOST_LOGITS = 2**24
"""Logits of a chunk: 64 MiB, and as much again while their loss is summed."""
TOP_K = 5


class ConceptClassifier(nn.Module):
    """Multiplies in fp32 whatever its weights and inputs are kept in."""

    def __init__(self, num_features: int, num_concepts: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_concepts, num_features))
        self.bias = nn.Parameter(torch.zeros(num_concepts))
        nn.init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04, generator=generator)

    def forward(self, pooled_BF: Tensor, concepts_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Loss as ``multi_label_loss`` defines it, and the share of the 5 most probable concepts that are right."""
        with torch.autocast(pooled_BF.device.type, enabled=False):
            loss, hit_fraction = _ConceptLoss.apply(  # type: ignore[no-untyped-call]
                pooled_BF.float(), self.weight.float(), self.bias.float(), concepts_BK, torch.is_grad_enabled()
            )
        return loss, hit_fraction


def multi_label_loss(logits_BV: Tensor, concepts_BK: Tensor) -> Tensor:
    """Binary cross-entropy with targets 1 at ``concepts_BK`` (-1: no concept; no concept twice) and 0 elsewhere.

    Summed over V, averaged over B: the sum of log(1 + exp(z)) - y z. ``logits_BV`` may be one row for all.
    """
    rows_BV = logits_BV.expand(len(concepts_BK), -1)
    return softplus(logits_BV).sum() / len(logits_BV) - _sum_of_positives(rows_BV, concepts_BK) / len(concepts_BK)


def _sum_of_positives(logits_BV: Tensor, concepts_BK: Tensor) -> Tensor:
    return (logits_BV.gather(1, concepts_BK.clamp(min=0)) * (concepts_BK >= 0)).sum()


class _ConceptLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pooled_BF: Tensor, weight_VF: Tensor, bias_V: Tensor, concepts_BK: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        size, num_concepts = len(pooled_BF), len(bias_V)
        total, num_hits = pooled_BF.new_zeros(()), pooled_BF.new_zeros(())
        gradients = [torch.zeros_like(tensor) for tensor in (pooled_BF, weight_VF, bias_V)] if with_gradient else []
        chunk_size = max(1, MOST_LOGITS // num_concepts)
        for start in range(0, size, chunk_size):
            chunk = slice(start, start + chunk_size)
            pooled_CF, concepts_CK = pooled_BF[chunk], concepts_BK[chunk]
            logits_CV = torch.addmm(bias_V, pooled_CF, weight_VF.T)
            total += softplus(logits_CV).sum() - _sum_of_positives(logits_CV, concepts_CK)
            num_hits += _count_hits(logits_CV, concepts_CK)
            if with_gradient:
                grad_CV = logits_CV.sigmoid_()
                grad_CV.scatter_add_(1, concepts_CK.clamp(min=0), -(concepts_CK >= 0).to(grad_CV.dtype))
                torch.mm(grad_CV, weight_VF, out=gradients[0][chunk])
                gradients[1].addmm_(grad_CV.T, pooled_CF)
                gradients[2] += grad_CV.sum(dim=0)
        ctx.save_for_backward(*(gradient.div_(size) for gradient in gradients))
        hit_fraction = num_hits / (size * min(TOP_K, num_concepts))
        ctx.mark_non_differentiable(hit_fraction)
        return total / size, hit_fraction

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # In place, for want of another V x F; autograd refuses a second backward pass over what has changed.
        return *(gradient.mul_(grad_loss) for gradient in ctx.saved_tensors), None, None


def _count_hits(logits_CV: Tensor, concepts_CK: Tensor) -> Tensor:
    top = logits_CV.topk(min(TOP_K, logits_CV.shape[1]), dim=1).indices
    return (top.unsqueeze(2) == concepts_CK.unsqueeze(1)).any(dim=2).sum()
