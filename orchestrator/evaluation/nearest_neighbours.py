"""Nearest neighbours: the k most similar training rows vote, each with exp(cosine / temperature).

Source: instance discrimination (arXiv 1805.01978, section 3.4), in the common setting of 20 neighbours at 0.07.
No fit, no learning rate: the cheapest probe, and one that every objective has. Features are standardised as for the
linear probe. Similarities exist for a piece of the queries at a time: memory is bounded by ``_MAX_ELEMENTS``.

Legend: Q queries, N training rows, k neighbours, K classes, D feature.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from orchestrator.evaluation.scores import one_hot

_MAX_ELEMENTS = 16 * 1024**2


def most_similar(query_QD: Tensor, answer_ND: Tensor) -> Tensor:
    """int64 [Q]: the answer of the greatest cosine."""
    return torch.cat([nearest.indices[:, 0] for nearest in _most_similar(query_QD, answer_ND, 1)])


def nearest_neighbour_votes(
    query_QD: Tensor, train_ND: Tensor, label: Tensor, num_classes: int, k: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """fp64 [Q, K]: each class's share of the votes; int64 [Q]: the nearest training row.

    The labels are the training rows', of either form. Several labels of a row get its vote each, so that shares may add
    up to more than one.
    """
    label_NK = one_hot(label, num_classes)
    votes, nearest_rows = [], []
    for nearest in _most_similar(query_QD, train_ND, k):
        weight_Qk = (nearest.values.double() / temperature).softmax(dim=1)
        vote_QK = weight_Qk.new_zeros(len(weight_Qk), num_classes)
        for rank in range(weight_Qk.shape[1]):  # one neighbour at a time: [Q, k, K] would not be bounded
            vote_QK += weight_Qk[:, rank, None] * label_NK[nearest.indices[:, rank]]
        votes.append(vote_QK)
        nearest_rows.append(nearest.indices[:, 0])
    return torch.cat(votes), torch.cat(nearest_rows)


def _most_similar(query_QD: Tensor, answer_ND: Tensor, k: int) -> Iterator[torch.return_types.topk]:
    """Cosines and indices of the k greatest, a piece of the queries at a time."""
    query_QD, answer_ND = normalize(query_QD.float(), dim=-1), normalize(answer_ND.float(), dim=-1)
    size = max(1, _MAX_ELEMENTS // len(answer_ND))
    for part_QD in torch.split(query_QD, size):
        yield (part_QD @ answer_ND.T).topk(min(k, len(answer_ND)), dim=1)
