"""Retrieval: the rank of an image's captions among all captions, and of a caption's image among all images.

A query's rank is that of its best right answer, and it is a hit at k if that is among the first k. Several captions of
an image are queries and answers each; a caption that several images share is right for all of them. Ties count against
the model: every wrong answer that is as similar as the right one stands before it, so that a model whose embeddings
have collapsed finds nothing. Intervals resample images, each with its captions; the answers stay as they are.
Scores are computed over distinct texts, in pieces of queries: memory is bounded by ``_MAX_ELEMENTS`` similarities.

Legend: Q queries, A answers, N images, C distinct captions, P pairs of image and caption, R resamples, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from orchestrator.evaluation.bootstrap import Estimate, Statistic, estimate, mean_of

Direction = Literal["image_to_text", "text_to_image"]
RECALL_AT = (1, 5, 10)
_MAX_ELEMENTS = 16 * 1024**2
_TIE = 1e-6  # a product of equal vectors differs by its place in the matrix, within fp32 rounding


@dataclass(frozen=True)
class CaptionPairs:
    """Which caption belongs to which image, as numbers: int64 [P] each."""

    texts: list[str]
    """Distinct captions, as first met."""
    image: Tensor
    caption: Tensor
    """Position in ``texts``."""
    num_images: int
    """Images with a caption and without; the latter are wrong answers to every caption."""


def pair_captions(captions: Sequence[Sequence[str]]) -> CaptionPairs:
    """Pairs from each image's captions, in order; what an image carries twice counts twice."""
    position: dict[str, int] = {}
    pairs = [(image, position.setdefault(text, len(position))) for image, own in enumerate(captions) for text in own]
    image_P, caption_P = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
    return CaptionPairs(list(position), image_P, caption_P, len(captions))


def retrieval(image_ND: Tensor, text_CD: Tensor, pairs: CaptionPairs, direction: Direction) -> dict[str, Estimate]:
    """Recall at 1, 5 and 10, mean and median rank, from embeddings of any length.

    One query an image that has captions, or one a pair.
    """
    rank_P, first_P = retrieval_ranks(image_ND, text_CD, pairs, direction)
    image_P = pairs.image
    if direction == "image_to_text":
        rank_P, image_P = rank_P[first_P], image_P[first_P]
    row_of_image = torch.zeros(pairs.num_images, dtype=torch.int64)
    with_caption = torch.unique(image_P)
    row_of_image[with_caption] = torch.arange(len(with_caption))
    row_P = row_of_image[image_P]
    statistics = {f"recall_at_{k}": mean_of((rank_P <= k).double()) for k in RECALL_AT}
    statistics |= {"mean_rank": mean_of(rank_P), "median_rank": _median_of(rank_P)}
    return estimate({name: _over_images(one, row_P) for name, one in statistics.items()}, len(with_caption))


def retrieval_ranks(
    image_ND: Tensor, text_CD: Tensor, pairs: CaptionPairs, direction: Direction
) -> tuple[Tensor, Tensor]:
    """int64 [P] rank of each pair's query, from 1; and bool [P]: whether it is the first pair of its image."""
    image_ND, text_CD = normalize(image_ND.float(), dim=-1), normalize(text_CD.float(), dim=-1)
    first_P = torch.ones_like(pairs.image, dtype=torch.bool)
    first_P[1:] = pairs.image[1:] != pairs.image[:-1]
    if direction == "image_to_text":
        count_C = pairs.caption.bincount(minlength=len(text_CD))
        return _ranks(image_ND, text_CD, pairs.image, pairs.caption, count_C)[pairs.image], first_P
    once_N = torch.ones(len(image_ND), dtype=torch.int64)
    return _ranks(text_CD, image_ND, pairs.caption, pairs.image, once_N)[pairs.caption], first_P


def _ranks(query_QD: Tensor, answer_AD: Tensor, query_P: Tensor, answer_P: Tensor, count_A: Tensor) -> Tensor:
    """One more than the wrong answers (each ``count_A`` times) that are no less similar than the best right one.

    int64 [Q]; without meaning for a query without a right answer.
    """
    order_P = query_P.argsort(stable=True)
    query_P, answer_P = query_P[order_P], answer_P[order_P]
    size = max(1, _MAX_ELEMENTS // len(answer_AD))
    ranks = []
    for first in range(0, len(query_QD), size):
        similarity_QA = query_QD[first : first + size] @ answer_AD.T
        start, stop = torch.searchsorted(query_P, torch.tensor([first, first + size])).tolist()
        is_right_QA = torch.zeros_like(similarity_QA, dtype=torch.bool)
        is_right_QA[query_P[start:stop] - first, answer_P[start:stop]] = True
        best_Q1 = similarity_QA.masked_fill(~is_right_QA, -torch.inf).amax(dim=1, keepdim=True)
        before_QA = (similarity_QA >= best_Q1 - _TIE) & ~is_right_QA
        ranks.append(1 + (before_QA * count_A).sum(dim=1))
    return torch.cat(ranks)


def _over_images(statistic: Statistic, row_P: Tensor) -> Statistic:
    """A statistic of queries as one of images: a query counts as often as its image."""
    return lambda weight_RN: statistic(weight_RN[:, row_P])


def _median_of(value_P: Tensor) -> Statistic:
    """The weighted median; between two middle values their mean."""
    ascending_P, order_P = value_P.double().sort(stable=True)

    def statistic(weight_RP: Tensor) -> Tensor:
        sum_RP = weight_RP[:, order_P].cumsum(dim=1)
        half_R1 = sum_RP[:, -1:] / 2
        middles = [torch.searchsorted(sum_RP, half_R1, right=right).flatten() for right in (False, True)]
        return (ascending_P[middles[0]] + ascending_P[middles[1]]) / 2

    return statistic
